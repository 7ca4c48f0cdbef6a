"""Fixtures for tests of the exports: a Core ML package made once, and graphs of the tiny run that are not traced again."""

from __future__ import annotations

import hashlib
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from shared import Shared
from shared_conversions import Conversions

if TYPE_CHECKING:
    from vtad.models.detector import Detector
    from vtad.run_folder import Run
    from vtad_export.coreml_format.exporter import CoreMLExport
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
def packaged(trained: Run, exported: Export, conversions: Conversions, shared: Shared) -> CoreMLExport:
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
            conversions.use(patch)
            return to_coreml(trained, folder / "pill.mlpackage")

    return shared("packaged", make)


@pytest.fixture(scope="session")
def float32_package(packaged: CoreMLExport) -> Path:
    """The package in float32 that the proof held `packaged` to. Read only."""
    return _float32(packaged.path.parent)


def _float32(folder: Path) -> Path:
    return folder.with_name("packaged-float32") / "pill.mlpackage"


@pytest.fixture(scope="session")
def traced_once(shared: Shared) -> Iterator[None]:
    """From here on detectors that are alike to the last bit are traced to an ONNX graph once a session, which takes seconds."""
    import onnx

    from vtad_export.onnx_format import exporter
    from vtad_export.onnx_format.graph import onnx_graph

    def once(detector: Detector) -> onnx.ModelProto:
        def make(_: Path) -> bytes:
            made: bytes = onnx_graph(detector).SerializeToString()
            return made

        return onnx.load_from_string(shared(f"graph-{_contents(detector)}", make))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "onnx_graph", once)
        yield


def _contents(detector: Detector) -> str:
    """A digest of all that a detector is made of."""
    from torch import Tensor

    digest = hashlib.sha256()
    for name, part in detector.named_modules():
        digest.update(f"{name} {type(part)}".encode())
        for key, value in (*vars(part).items(), *part._parameters.items(), *part._buffers.items()):
            if isinstance(value, Tensor):
                digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode() + value.detach().numpy().tobytes())
            elif not key.startswith("_"):
                digest.update(f"{key} {value}".encode())
    return digest.hexdigest()


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
def conversions(shared: Shared, tmp_path_factory: pytest.TempPathFactory) -> Conversions:
    """Core ML models of `trained`, each converted once."""
    return Conversions(shared, tmp_path_factory.mktemp("conversions"))


@pytest.fixture
def ready(ready_graph: None, conversions: Conversions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports of `trained` take what was traced and converted of it before; all that follows is done anew."""
    conversions.use(monkeypatch)


@pytest.fixture
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proofs on few pictures, where they are not the point."""
    from vtad_export.onnx_format import reading_back
    from vtad_export.proof import grading, material

    monkeypatch.setattr(material, "DEFECTIVE_IMAGES", 2)
    monkeypatch.setattr(grading, "DEFECTS", 1)
    monkeypatch.setattr(grading, "GOOD", 1)
    monkeypatch.setattr(grading, "ENOUGH", 1)
    monkeypatch.setattr(reading_back, "BATCHES", (1, 2))
