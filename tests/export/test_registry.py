"""vtad_export.registry: the MLflow model of an export, and when a model can be registered."""

from __future__ import annotations

import base64
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tiny_run import error

from vtad_export.commands.export import export
from vtad_runtime import Detector

if TYPE_CHECKING:
    from vtad.run_folder import Run
    from vtad_export.proof.exporter import Export


def test_only_an_onnx_export_is_registered(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    said = error(2, export, "--run", tmp_path, "--register", "--format", "coreml")
    assert "--register: expected an ONNX export, got --format coreml" in said


@pytest.mark.slow
def test_a_model_judges_names_bytes_data_addresses_and_arrays_as_the_runtime_does(exported: Export, pills: Path) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'vtad[track]'")
    import pandas as pd

    from vtad_export.registry.pyfunc_model import Judge

    judge = Judge()
    judge.load_context(SimpleNamespace(artifacts={"onnx": exported.path}))
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
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'vtad[track]'")
    from vtad_export.registry.pyfunc_model import Judge

    judge = Judge()
    judge.load_context(SimpleNamespace(artifacts={"onnx": exported.path}))
    good = str(next((pills / "pill/test/good").iterdir()))
    first, second, third = judge.predict(["nothing.png", good, "data:image/png;base64,AAAA"])
    assert (first.verdict, first.score) == ("ERROR", None)
    assert "nothing.png" in (first.reason or "")
    assert second.score is not None
    assert third.verdict == "ERROR"


@pytest.mark.slow
def test_a_store_that_is_away_stops_a_registration_and_keeps_the_export(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'vtad[track]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    said = error(4, export, "--run", run.path, "--register")
    assert "--register: http://***@127.0.0.1:9: " in said
    assert "secret" not in said
    assert "the export itself is complete" in said
    assert (run.path / "export/pill.onnx").is_file()
    assert "secret" not in (run.path / "tracking.json").read_text()
