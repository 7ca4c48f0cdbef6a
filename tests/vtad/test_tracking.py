"""Addresses of MLflow stores, what is kept of a login, and a training that is tracked in an SQLite file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tiny_run import error, flags

from vtad.commands.train import train
from vtad.tracking.address import TrackingError, page, store_address, with_login, without_login


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
