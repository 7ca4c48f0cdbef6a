"""Addresses of MLflow stores, what is kept of a login, a server that says nothing, and that nobody else is contacted."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_run import done, error, flags

from vtad.commands.tracking_options import add_to_tracked
from vtad.commands.train import train
from vtad.run_folder import Run
from vtad.tracking.address import TrackingError, page, store_address, with_login, without_login
from vtad.tracking.following import reason_of
from vtad.tracking.record import Tracked


@pytest.mark.parametrize(
    "given",
    [
        "http://127.0.0.1:5000",
        "https://user:secret@mlflow.example.com/team",
        "postgresql+psycopg://user:secret@db/mlflow",
        "mysql://db:3306/mlflow",
    ],
)
def test_an_address_of_a_store_is_taken_as_it_is(given: str) -> None:
    assert store_address(given) == given


def test_an_sqlite_file_is_named_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert store_address("") == store_address() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000/")
    assert store_address() == "http://server:5000"
    assert store_address("sqlite:///a.db") == f"sqlite:///{tmp_path}/a.db"


@pytest.mark.parametrize(
    "given",
    [
        "mlruns",
        "pill",
        "file:///tmp/mlruns",
        "ftp://server",
        "http://",
        "http://server:port",
        "sqlite://",
        "sqlite:///",
    ],
)
def test_another_address_is_an_error_that_says_what_is_expected(given: str) -> None:
    with pytest.raises(TrackingError, match=r"--track .*: expected the address of an MLflow store, http://HOST:PORT"):
        store_address(given)


def test_an_error_about_an_address_tells_no_password() -> None:
    with pytest.raises(TrackingError) as raised:
        store_address("htp://user:secret@server")
    assert "secret" not in str(raised.value)
    with pytest.raises(TrackingError, match=r"write # as %23"):
        store_address("http://user:se#cret@server:5000")


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mlruns")
    with pytest.raises(TrackingError, match=r"^MLFLOW_TRACKING_URI mlruns: expected"):
        store_address()


def test_what_is_kept_has_no_login_and_finds_it_in_the_environment_again(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = "https://user:se:cret@server:5000/team"
    kept = without_login(whole)
    assert kept == "https://server:5000/team"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert with_login(kept) == kept
    monkeypatch.setenv("MLFLOW_TRACKING_URI", whole)
    assert with_login(kept) == whole
    assert with_login("https://other") == "https://other"
    assert page(whole, "1", "ab") == "https://server:5000/team/#/experiments/1/runs/ab"


def test_an_experiment_without_tracking_is_refused() -> None:
    assert "give --track too" in error(2, train, "--experiment", "new light", *flags())


def test_the_extra_is_named_where_mlflow_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.chdir(tmp_path)
    said = error(2, train, "--track", "--category", "pill", *flags())
    assert "pip install 'vtad[track]'" in said


def test_an_address_that_is_none_stops_a_training_before_it_begins(tmp_path: Path) -> None:
    said = error(2, train, "--category", "pill", "--out", tmp_path, "--track", "mlruns", *flags())
    assert "expected the address of an MLflow store" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_server_that_takes_a_request_and_says_nothing_holds_no_training_up(
    pills: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'vtad[track]'")
    from vtad.tracking import following

    monkeypatch.setattr(following, "END_S", 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        address = f"http://user:se%23cret@127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        said = done(train, "--category", "pill", "--data", pills, "--out", tmp_path, "--track", address, *flags())
        assert time.monotonic() - start < 30
        asked, _ = silent.accept()
        with asked:
            request = asked.recv(100_000)
    assert base64.b64encode(b"user:se#cret") in request  # the login reaches the server, and nothing else
    assert len(messages) == 1
    assert "tracking: http://***@127.0.0.1" in messages[0]
    run = Run(tmp_path / "pill/0001")
    kept = (run.path / "tracking.json").read_text()
    assert run.complete
    assert not [text for text in (said, *messages, kept) if "cret" in text]


@pytest.mark.slow
def test_a_file_that_is_gone_is_a_warning_and_no_new_file(run: Run, tmp_path: Path, messages: list[str]) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'vtad[track]'")
    file = tmp_path / "gone.db"
    Tracked(f"sqlite:///{file}", "pill", started_ms=0, experiment_id="1", run_id="ab").write(run)
    add_to_tracked(run)
    assert f"{file}: expected the MLflow store of this run, got no such file" in messages[0]
    assert len(messages) == 1
    assert not file.exists()


@pytest.mark.slow
def test_mlflow_is_imported_without_telemetry(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'vtad[track]'")
    plain = {k: v for k, v in os.environ.items() if k not in ("PYTEST_CURRENT_TEST", "CI", "GITHUB_ACTIONS")}
    program = """
import sys
reached = []
sys.addaudithook(lambda name, args: reached.append(args) if name in ("socket.connect", "socket.getaddrinfo") else None)
from vtad.tracking.library import client
client("http://127.0.0.1:9")
from mlflow.telemetry import get_telemetry_client
assert get_telemetry_client() is None
assert not reached, reached
"""
    environment = {**plain, "HOME": str(tmp_path), "MLFLOW_DISABLE_TELEMETRY": "false", "DO_NOT_TRACK": "false"}
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())  # no id of this installation


def test_a_store_that_does_not_answer_is_said_in_few_words() -> None:
    refused = RuntimeError("HTTPConnectionPool(host='127.0.0.1', port=1): Max retries exceeded")
    refused.__context__ = ConnectionRefusedError(
        111, "Connection refused"
    )  # as when it is raised while that is handled
    assert reason_of(refused) == "it does not answer (Connection refused)"
    assert reason_of(ValueError("no such run")) == "ValueError: no such run"
