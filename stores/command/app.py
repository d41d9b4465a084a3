"""The command ``reelstore`` with all its verbs."""

from __future__ import annotations

from .base import Command, group
from .exchange import export_feature, import_feature
from .looking import compare, inspect, report
from .upkeep import compact, gc, repair, verify

app = group("Look at a store, check it, repair it, clean it up; export, import and compare feature files.")
for name, verb in (
    ("inspect", inspect),
    ("report", report),
    ("verify", verify),
    ("repair", repair),
    ("gc", gc),
    ("compact", compact),
    ("export", export_feature),
    ("import", import_feature),
    ("compare", compare),
):
    app.command(name, cls=Command)(verb)
