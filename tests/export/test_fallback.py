"""The ONNX fallback beside a package: it takes its place when the package is proven, and not before."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vtad_export.onnx_format import fallback
from vtad_export.onnx_format.fallback import fallback_for
from vtad_export.proof.errors import ParityError
from vtad_export.proof.exporter import Export
from vtad_runtime.engine.integrity import write_sealed


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def shared_by_two_runs(exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the exports of another run; a new ONNX model is a copy of `exported`."""
    for name in ("pill.onnx", "pill-int8.onnx"):
        shutil.copy2(exported.path, tmp_path / name)
        write_sealed(tmp_path / name, dataclasses.replace(exported.card, weights_sha256="0" * 64))
    (tmp_path / "parity.json").write_text("of the other run")

    def to_onnx(_run: Any, path: Path, material: Any) -> None:
        shutil.copy2(exported.path, path)
        path.with_name("parity.json").write_text("of this run")

    monkeypatch.setattr(fallback, "to_onnx", to_onnx)
    return tmp_path


def of_the_run(exported: Export) -> Any:
    return SimpleNamespace(card=exported.card, run=None)


@pytest.mark.parametrize("name", ["pill.mlpackage", "pill-int8.mlpackage", "pill.aimodel"])
def test_a_package_that_fails_its_proof_changes_no_file_of_an_earlier_export(
    exported: Export, shared_by_two_runs: Path, name: str
) -> None:
    before = contents(shared_by_two_runs)

    def fails() -> None:
        with fallback_for(shared_by_two_runs / name, of_the_run(exported)) as found:
            assert found.path == shared_by_two_runs / "pill.onnx"
            assert contents(shared_by_two_runs).items() >= before.items()
            raise ParityError("the package does not agree")

    with pytest.raises(ParityError, match="does not agree"):
        fails()
    assert contents(shared_by_two_runs) == before


def test_the_fallback_of_a_proven_package_takes_the_place_of_what_is_of_other_weights(
    exported: Export, shared_by_two_runs: Path
) -> None:
    with fallback_for(shared_by_two_runs / "pill-int8.mlpackage", of_the_run(exported)):
        pass
    assert contents(shared_by_two_runs) == {"pill.onnx": exported.path.read_bytes(), "parity.json": b"of this run"}
