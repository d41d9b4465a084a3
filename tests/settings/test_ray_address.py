"""A wrong ``RAY_ADDRESS`` is one line at once; what listens there is a server of each kind, made here."""

from __future__ import annotations

import http.server
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from settings import SettingsError
from settings.ray_address import check_ray_address
from tests.conftest import ROOT

QUICK = 0.3


def refusal(address: str, timeout_s: float = QUICK, **environment: str) -> str:
    with pytest.raises(SettingsError) as refused:
        check_ray_address({"RAY_ADDRESS": address, "RAY_TMPDIR": "/nowhere", **environment}, timeout_s)
    return str(refused.value)


@contextmanager
def closed_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        yield taken.getsockname()[1]


@contextmanager
def silent_server() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def web_server() -> Iterator[int]:
    """Listens as Ray's dashboard does."""

    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, *words: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@contextmanager
def grpc_server() -> Iterator[int]:
    """Listens as Ray does: its servers are those of this library."""
    grpc = pytest.importorskip("grpc")
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None)


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "localhost:{}", "ray://127.0.0.1:{}", "ray://127.0.0.1:{}/"])
def test_a_cluster_that_answers_is_accepted(form: str) -> None:
    with grpc_server() as port:
        check_ray_address({"RAY_ADDRESS": form.format(port)}, timeout_s=10)


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_cluster_that_is_gone_is_named_with_what_to_do(form: str) -> None:
    with closed_port() as port:
        address = form.format(port)
        assert refusal(address) == (
            f"RAY_ADDRESS={address}: no Ray cluster there (connection refused); start the cluster, correct "
            "RAY_ADDRESS, or unset it to use Ray on this machine"
        )


def test_a_port_of_something_else_is_not_taken_for_ray() -> None:
    """Ray itself would wait two minutes for it."""
    with web_server() as port:
        assert f"(what listens on port {port} does not speak gRPC, as Ray does)" in refusal(f"127.0.0.1:{port}", 10)


def test_silence_ends_after_the_time_given() -> None:
    with silent_server() as port:
        assert "(no answer within 0.3 s)" in refusal(f"127.0.0.1:{port}")
        check_ray_address({"RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_USE_TLS": "1"}, QUICK)  # it wants a certificate


def test_a_name_that_nobody_knows_and_a_name_server_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*given: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    assert "(host 'head' is unknown)" in refusal("head:6379")
    released = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *given: released.wait() and unknown())
    assert "(no answer within 0.3 s)" in refusal("head:6379")
    released.set()


def test_the_address_for_job_submission_has_its_own_hint() -> None:
    assert refusal("http://127.0.0.1:8265") == (
        "RAY_ADDRESS=http://127.0.0.1:8265: is where jobs are submitted to, and nothing to connect to; give it to ray "
        "job submit as RAY_API_SERVER_ADDRESS, and set RAY_ADDRESS to host:6379 or ray://host:10001"
    )


@pytest.mark.parametrize(
    "address", ["head", "head:port", "head:", ":6379", "redis://head:6379", "head:6379/x", "head:99999"]
)
def test_what_is_no_address_says_which_forms_there_are(address: str) -> None:
    assert refusal(address) == (f"RAY_ADDRESS={address}: not an address; use host:port, ray://host:port, auto or local")


@pytest.mark.parametrize("address", ["auto", ""])
def test_the_cluster_that_ray_start_noted_is_checked(tmp_path: Path, address: str) -> None:
    environment = {"RAY_ADDRESS": address, "RAY_TMPDIR": str(tmp_path)}
    check_ray_address(environment, QUICK)  # none is noted
    note = tmp_path / "ray" / "ray_current_cluster"
    note.parent.mkdir()
    with closed_port() as port:
        note.write_text(f"127.0.0.1:{port}\n")
        assert refusal(address, RAY_TMPDIR=str(tmp_path)) == (
            f"{note} says 127.0.0.1:{port}: no Ray cluster there (connection refused); start it again, or set "
            "RAY_ADDRESS=local to use Ray on this machine"
        )
        check_ray_address({**environment, "RAY_ADDRESS": "local"}, QUICK)
    with grpc_server() as port:
        note.write_text(f"127.0.0.1:{port}")
        check_ray_address(environment, 10)


def test_ray_looks_for_its_note_where_we_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    utils = pytest.importorskip("ray._common.utils")
    for variable in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
        assert Path(utils.get_ray_address_file(None)) == tmp_path / variable / "ray" / "ray_current_cluster"


def test_the_check_needs_no_ray() -> None:
    code = "import sys, settings.ray_address; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("where", ["stages", "training"])
def test_whoever_connects_to_ray_asks_first(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr("ray.init", lambda *given, **more: pytest.fail("connected"))
    with closed_port() as port:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        with pytest.raises(SettingsError, match=f"^RAY_ADDRESS=127.0.0.1:{port}: no Ray cluster there"):
            if where == "stages":
                from pipeline.shared.ray_session import session
                from pipeline.shared.signals import StopSignals

                with session(StopSignals()):
                    pytest.fail("in a session")
            else:
                from trainers.launch_ray import launch
                from trainers.results import TrainRequest

                request = TrainRequest(method="cra", store="", version=1, out=str(tmp_path / "run"), settings={})
                launch(request, 2, "cpu")
    assert not ray.is_initialized() and not (tmp_path / "run").exists()
