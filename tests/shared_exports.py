"""Fixtures for tests of the exports: a Core ML package made once, and graphs of the tiny run that are not traced again."""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from shared import Shared

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from vtad.run_folder import Run
    from vtad_export.coreml_format.exporter import CoreMLExport
    from vtad_export.coreml_format.graph import EngineDetector
    from vtad_export.proof.exporter import Export

ReadyGraph = Callable[[pytest.MonkeyPatch], None]


def traces(folder: Path, *places: Path) -> list[str]:
    """What the files of an export's folder say of the machine and the folders where they were made, sources among them."""
    sources = Path(__file__).parents[1]
    telling = [*places, sources, Path.cwd(), Path.home() / "x", Path(tempfile.gettempdir()) / "x", Path(sys.prefix)]
    words = [
        *(str(place).removesuffix("x") for place in telling),
        "site-packages",
        "Traceback",
        'File "',
        "stack_trace",
    ]
    if len(platform.node()) > 5:  # a shorter name is found in any weights
        words.append(platform.node())
    found = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        held = file.read_bytes().replace(b"\\/", b"/")  # Apple's JSON writes \/
        found += [f"{file.name}: {word}" for word in words if word.encode() in held]
    return found


@pytest.fixture(scope="session")
def packaged(trained: Run, exported: Export, shared: Shared) -> CoreMLExport:
    """The default Core ML export of `trained` beside its ONNX fallback, in a folder of their own. Read only."""
    from vtad_export import to_coreml
    from vtad_export.coreml_format import exporter
    from vtad_export.coreml_format.reference_proof import prove_package

    def make(folder: Path) -> CoreMLExport:
        shutil.copy2(exported.path, folder / "pill.onnx")
        with pytest.MonkeyPatch.context() as patch:

            def proven(path: Path, full: Path, *rest: Any, **options: Any) -> Any:
                shutil.copytree(full, _float32(folder))
                return prove_package(path, full, *rest, **options)

            patch.setattr(exporter, "prove_package", proven)
            return to_coreml(trained, folder / "pill.mlpackage")

    return shared("packaged", make)


@pytest.fixture(scope="session")
def float32_package(packaged: CoreMLExport) -> Path:
    """The package in float32 that the proof held `packaged` to. Read only."""
    return _float32(packaged.path.parent)


def _float32(folder: Path) -> Path:
    return folder.with_name("packaged-float32") / "pill.mlpackage"


@pytest.fixture(scope="session")
def ready_graph_in(exported: Export) -> ReadyGraph:
    """ready_graph_in(patch): the ONNX graph of `trained` is not traced again, which takes seconds."""
    import onnx

    from vtad_export.onnx_format import exporter

    return lambda patch: patch.setattr(exporter, "onnx_graph", lambda detector: onnx.load(exported.path))


@pytest.fixture
def ready_graph(ready_graph_in: ReadyGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ONNX graph of `trained` is not traced again."""
    ready_graph_in(monkeypatch)


@pytest.fixture(scope="session")
def kept() -> dict[Any, Any]:
    """What this worker has traced and converted of `trained`."""
    return {}


@pytest.fixture
def ready(ready_graph: None, kept: dict[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports of `trained` take what was traced and converted of it before; all that follows is done anew."""
    from vtad_export.coreml_format.conversion import convert
    from vtad_export.coreml_format.graph import layout_of, trace

    def traced(arranged: EngineDetector) -> ExportedProgram:
        key = (layout_of(arranged), arranged.function, getattr(arranged.model, "fused", False))
        if key not in kept:
            kept[key] = trace(arranged)
        program: ExportedProgram = kept[key]
        return program

    def converted(program: ExportedProgram, *given: Any) -> Any:
        key = (id(program), *given)
        if key not in kept:
            kept[key] = convert(program, *given)
        return kept[key]

    monkeypatch.setattr("vtad_export.coreml_format.exporter.trace", traced)
    monkeypatch.setattr("vtad_export.coreml_format.exporter.convert", converted)
