"""The command ``reelstore`` with all its verbs."""

from __future__ import annotations

from .base import Command, group
from .exchange import export_feature, import_feature
from .looking import compare, inspect, report
from .sharing import pull, push
from .upkeep import compact, gc, repair, verify
from .versions import diff, history, rollback

app = group(
    "Look at a store and its versions, check it, repair it, clean it up; share it; export, import and compare "
    "feature files.",
    completion=True,
)
for name, verb in (
    ("inspect", inspect),
    ("report", report),
    ("history", history),
    ("diff", diff),
    ("rollback", rollback),
    ("verify", verify),
    ("repair", repair),
    ("gc", gc),
    ("compact", compact),
    ("push", push),
    ("pull", pull),
    ("export", export_feature),
    ("import", import_feature),
    ("compare", compare),
):
    app.command(name, cls=Command)(verb)
