"""Opens a model by the kind of its file, and finds the export that was written last."""

from __future__ import annotations

from pathlib import Path

from vtad_runtime.engine.coreml_engine import VERDICT, CoreMLSession, instead, onnx_fallback, runs_packages
from vtad_runtime.engine.engines import CPU, ENGINES
from vtad_runtime.engine.model import ModelError, OpenModel
from vtad_runtime.engine.onnxruntime_engine import OnnxSession

# What Apple's tools make or take, and vtad-run does not.
FOREIGN = {
    ".aimodel": "a Core AI asset, which iOS 27 and macOS 27 run",
    ".mlmodelc": "a compiled Core ML model, which apps run",
    ".mlmodel": "a Core ML model of the older kind",
}


def open_model(
    model: Path | str | bytes,
    threads: int | None = None,
    *,
    engine: str = CPU,
    callers: int = 1,
    allow_changed: bool = False,
) -> OpenModel:
    """Open an .mlpackage by Core ML, another file or its bytes by an engine of `ENGINES` with `threads` CPU threads.

    Engines of the CPU are made for `callers` at once, see `OpenModel`. Core ML chooses its threads itself. Raises ModelError,
    also where the model was changed since its export, unless `allow_changed`.
    """
    if not isinstance(model, bytes) and (what := FOREIGN.get(Path(model).suffix)):
        raise ModelError(
            f"{model}: expected an .onnx model, or on a Mac an .mlpackage, got {what}; {instead(Path(model))}"
        )
    if not isinstance(model, bytes) and is_package(model):
        if engine != CPU:
            raise ModelError(
                f"{model}: expected an .onnx model for engine {engine}, got a Core ML package; leave --engine out"
            )
        return CoreMLSession(Path(model), allow_changed=allow_changed)
    if engine not in ENGINES:
        raise ModelError(f"engine: expected one of {', '.join(ENGINES)}, got {engine}")
    if ENGINES[engine].provider is None:
        from vtad_runtime.engine.openvino_engine import OpenVinoSession  # the extra `openvino`

        return OpenVinoSession(model, threads, engine=engine, callers=callers, allow_changed=allow_changed)
    return OnnxSession(model, threads, engine=engine, callers=callers, allow_changed=allow_changed)


def is_package(model: Path | str | bytes) -> bool:
    """Whether a model is a Core ML package, which Core ML alone runs."""
    return not isinstance(model, bytes) and Path(model).suffix == ".mlpackage"


def newest_model(runs: Path = Path("runs")) -> Path:
    """The newest export in `runs`/<category>/<number>/export, in the format that this machine runs. Raises ModelError: none.

    An export is a package and its ONNX fallback, pill.mlpackage and pill.onnx (`onnx_fallback`), or one of them. A Mac with
    coremltools takes the package. Where the newest export is a package alone and this is no Mac, that package is returned:
    opening it says what to do.
    """
    found = [p for suffix in (".onnx", ".mlpackage") for p in runs.glob(f"*/*/export/*{suffix}")]
    found = [p for p in found if not p.stem.endswith(VERDICT)]  # a part of the export beside it
    if not found:
        raise ModelError(
            f"no exported model in {runs}/*/*/export: run vtad-train, then vtad-export, or name one by --model"
        )
    last = max(found, key=lambda p: (p.stat().st_mtime, str(p)))
    package = last.with_suffix(".mlpackage")
    fallback = onnx_fallback(package)
    if fallback.is_file() and not (package.is_dir() and runs_packages()):
        return fallback
    return package
