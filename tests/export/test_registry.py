"""vtad_export.registry: the MLflow model of an export, and when a model can be registered."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tiny_run import error

from vtad_export.commands.export import export
from vtad_export.commands.sending import sender
from vtad_runtime import Detector, VtadError

if TYPE_CHECKING:
    from vtad.run_folder import Run
    from vtad_export.proof.exporter import Export


def test_only_an_onnx_export_is_registered(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    said = error(2, export, "--run", tmp_path, "--register", "--format", "coreml")
    assert "--register: expected an ONNX export, got --format coreml" in said
    said = error(2, export, "--run", tmp_path, "--register", "--format", "all", "--precision", "fp16")
    assert "--register: expected an ONNX export, got --format all --precision fp16" in said


def test_no_other_precision_is_registered_in_the_place_of_one_that_was_not_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    registered: list[str] = []

    def register(_mirror: Any, model: str, _category: str) -> str:
        registered.append(model)
        return "7"

    for name, stand_in in {
        "vtad_export.commands.sending.prepare": lambda: None,
        "vtad_export.commands.sending.store_of": lambda _: SimpleNamespace(address="sqlite:///mlflow.db"),
        "vtad.tracking.mirror.Mirror.new": lambda *_: SimpleNamespace(send=lambda: None, page="page"),
        "vtad_export.registry.logged.send_export": lambda *_: None,
        "vtad_export.registry.logged.log_model": lambda _, path: path,
        "vtad_export.registry.logged.register": register,
    }.items():
        monkeypatch.setattr(name, stand_in)
    tracked: Any = SimpleNamespace(tracked=True, config=lambda: SimpleNamespace(category="pill"))

    def send(*made: tuple[str, str]) -> None:
        exports: list[Any] = [
            SimpleNamespace(parity=SimpleNamespace(format=kind, precision=p), path=f"{kind} {p}") for kind, p in made
        ]
        sender(tracked, "fp32")(exports)

    send(("onnx", "int8"), ("coreml", "fp32"))
    assert registered == []
    assert "--register: nothing is registered, for there is no proven onnx fp32" in capsys.readouterr().err
    send(("onnx", "int8"), ("onnx", "fp32"))
    assert registered == ["onnx fp32"]
    assert "registered: pill version 7" in capsys.readouterr().out


def loaded(exported: Export) -> Any:
    """The model as mlflow has it, once it is loaded."""
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'vtad[track]'")
    from vtad_export.registry.pyfunc_model import Judge

    judge: Any = Judge()
    judge.load_context(SimpleNamespace(artifacts={"onnx": exported.path}))
    return judge


@pytest.mark.slow
def test_a_model_judges_names_bytes_data_addresses_and_arrays_as_the_runtime_does(
    exported: Export, pills: Path
) -> None:
    judge, pd = loaded(exported), pytest.importorskip("pandas")
    detector = Detector(exported.path)
    files = sorted((pills / "pill/test/good").iterdir())
    rgb = [detector.read(file).rgb for file in files]
    encoded = f"data:image/png;base64,{base64.b64encode(files[0].read_bytes()).decode()}"
    for given in (
        [str(file) for file in files],
        [encoded, *rgb[1:]],
        [files[0].read_bytes(), *map(str, files[1:])],
        np.stack(rgb),
        [picture.tolist() for picture in rgb],
        pd.DataFrame({"file": [str(file) for file in files]}),
    ):
        judged = judge.predict(given)
        assert [one.verdict for one in judged] == [detector(file).verdict for file in files]
        assert [one.score for one in judged] == pytest.approx([detector(file).score for file in files], abs=1e-4)
    for one in (str(files[0]), rgb[0]):
        assert judge.predict(one)[0].score == pytest.approx(detector(files[0]).score, abs=1e-4)


@pytest.mark.slow
def test_a_picture_that_cannot_be_read_is_an_error_and_takes_no_other_with_it(exported: Export, pills: Path) -> None:
    judge = loaded(exported)
    good = str(next((pills / "pill/test/good").iterdir()))
    first, second, third = judge.predict(["nothing.png", good, "data:image/png;base64,AAAA"])
    assert (first.verdict, first.score) == ("ERROR", None)
    assert "nothing.png" in (first.reason or "")
    assert second.score is not None
    assert third.verdict == "ERROR"


@pytest.mark.slow
@pytest.mark.parametrize("value", [300, -1, 10**30, None, 0.5, 255.0, "127", [1, 2]])
def test_an_array_of_json_whose_numbers_are_no_levels_is_an_error_and_takes_no_other_with_it(
    exported: Export, value: object
) -> None:
    judge = loaded(exported)
    grey: list[list[list[Any]]] = np.full((32, 32, 3), 127).tolist()
    other: list[list[list[Any]]] = np.full((32, 32, 3), 127).tolist()
    other[3][4][1] = value
    if value == 0.5:
        other = np.full((32, 32, 3), 0.5).tolist()
    first, second = judge.predict([other, grey])
    assert (first.verdict, first.score) == ("ERROR", None)
    assert second.score is not None
    assert "\n" not in (first.reason or "\n")


@pytest.mark.slow
def test_a_store_that_is_away_stops_a_registration_and_keeps_no_login(
    run: Run, exported: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'vtad[track]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    with pytest.raises(VtadError, match=re.escape("--register: http://***@127.0.0.1:9: ")) as raised:
        sender(run, registers="fp32")([exported])
    assert raised.value.exit_code == 4
    assert "secret" not in str(raised.value)
    assert "secret" not in (run.path / "tracking.json").read_text()
