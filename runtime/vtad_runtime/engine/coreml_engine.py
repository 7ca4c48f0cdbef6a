"""Opens an .mlpackage on a Mac through coremltools (extra `apple`), reads the card inside it, and runs pictures one by one.

Not tested on hardware: no Mac was at hand. What is tested is every call to coremltools, against a stand-in that answers by
its documented signatures, and that every other machine says in one line what to run instead.
"""

from __future__ import annotations

import platform
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.card import AGAIN, ONNX_KEY, REFERENCES_KEY, Card, CardError
from vtad_runtime.contract.errors import NOT_JUDGED, one_line
from vtad_runtime.engine.integrity import integrity, opened
from vtad_runtime.engine.model import OUTPUTS, ModelError, Outputs, Scored, checked, graph_names, references_of

if TYPE_CHECKING:
    from vtad_runtime.contract.references import References

DEFAULT_UNITS = "CPU_AND_NE"
VERDICT = (
    ".verdict"  # ends the name of a package that gives score and heatmap only, beside the one that gives everything
)


def on_mac() -> bool:
    """Whether this machine has the Core ML framework."""
    return platform.system() == "Darwin"


def runs_packages() -> bool:
    """Whether this machine can run an .mlpackage: a Mac with coremltools."""
    return on_mac() and find_spec("coremltools") is not None


def plain_stem(stem: str) -> str:
    """A model's name without what says how its weights are stored."""
    for kind in ("-int8", "-palettized6", "-palettized4"):
        stem = stem.removesuffix(kind)
    return stem


def onnx_fallback(package: Path) -> Path:
    """The ONNX model that runs in place of a package where that does not: of the same name, whether it is there or not.

    Where pill-int8.mlpackage has no pill-int8.onnx beside it, or pill-fp16.aimodel no pill-fp16.onnx, its fallback is the float32
    model, pill.onnx.
    """
    own = package.with_stem(package.stem.removesuffix(VERDICT)).with_suffix(".onnx")
    plain = own.with_stem(plain_stem(own.stem).removesuffix("-fp16"))
    return plain if plain.is_file() and not own.is_file() else own


def verdict_package(package: Path) -> Path:
    """Where the function `verdict` of a package is that has only one: pill.verdict.mlpackage beside pill.mlpackage."""
    return package.with_stem(package.stem + VERDICT)


def instead(package: Path) -> str:
    """What to run where a package does not, in half a line."""
    fallback = onnx_fallback(package)
    return (
        f"run its ONNX fallback {fallback}"
        if fallback.is_file()
        else "vtad-export --format onnx makes a model that runs here"
    )


class CoreMLSession:
    """One opened package. `card` is the card it carries; `integrity` whether it is as it was exported.

    `compute_units` are what it runs on.
    """

    def __init__(self, path: Path | str, compute_units: str | None = None, *, allow_changed: bool = False) -> None:
        """Open `path` on `compute_units` (None: as its card says, else CPU_AND_NE).

        Raises ModelError: no Mac, no package of vtad-export, or one changed since, unless `allow_changed`.
        """
        self.path, self.engine, self.callers = Path(path), "coreml", 1
        ct = _coremltools(self.path)
        if not (self.path / "Manifest.json").is_file():
            raise ModelError(
                f"{self.path}: expected a Core ML package (a folder with a Manifest.json), got none; {AGAIN}"
            )
        found = opened(self.path, self.path, allow_changed)
        try:  # the card first: it names the compute units, and a package that is not ours is not worth compiling
            self._metadata, self.card = _card(ct.models.MLModel(str(self.path), skip_model_load=True), self.path)
            self.integrity = found or integrity(self.path)
            self.compute_units = compute_units or self.card.compute_units or DEFAULT_UNITS
            self._model = ct.models.MLModel(str(self.path), compute_units=ct.ComputeUnit[self.compute_units])
        except ModelError:
            raise
        except Exception as e:  # coremltools' errors share no base class
            raise ModelError(
                f"{self.path}: expected a Core ML package, got one that Core ML refuses ({one_line(e)}); {instead(self.path)}"
            ) from e
        self._running = threading.Lock()  # nothing says that a prediction may overlap with another

    def run(self, batch: NDArray[np.uint8]) -> Outputs:
        """Run (n, 3, height, width) uint8 RGB, one prediction each. Raises ModelError."""
        from PIL import Image  # coremltools takes these; no other engine needs it

        found = []
        for pixels in batch:
            image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))  # (height, width, 3)
            try:
                with self._running:
                    found.append(self._model.predict({self.card.input.name: image}))
            except Exception as e:  # coremltools' errors share no base class
                raise ModelError(f"{self.path}: expected a prediction by Core ML, got {one_line(e)}", NOT_JUDGED) from e
        named = [{name: values[old] for name, old in graph_names(values).items()} for values in found]
        if missing := sorted({name for values in named for name in OUTPUTS if name not in values}):
            raise ModelError(
                f"{self.path}: expected outputs {', '.join(OUTPUTS)}, got none of {', '.join(missing)}; {AGAIN}"
            )
        joined = {n: np.concatenate([np.asarray(v[n], np.float32) for v in named]) for n in OUTPUTS}
        return checked(Outputs, joined, len(batch), self.card, self.path)

    def verdict(self, batch: NDArray[np.uint8]) -> Scored:
        """As `run`: the function `verdict` of a package is for apps. Raises ModelError."""
        return self.run(batch)

    def open_whole(self) -> None:
        """Nothing: it is one function."""

    def references(self) -> References | None:
        """The reference pictures in the package; None where there are none. Raises ReferencesError."""
        return references_of(self._metadata.get(REFERENCES_KEY), self.card, self.path)


def _coremltools(path: Path) -> Any:
    """The package coremltools. Raises ModelError where this machine cannot run Core ML, naming what it can."""
    if not on_mac():
        raise ModelError(f"{path}: expected a Mac to run a Core ML package, got {platform.system()}; {instead(path)}")
    try:
        import coremltools
    except ImportError as e:
        raise ModelError(
            f"{path}: expected coremltools to run a Core ML package, got none ({one_line(e)}): "
            f"pip install 'vtad[apple]', or {instead(path)}"
        ) from e
    return coremltools


def _card(model: Any, path: Path) -> tuple[dict[str, str], Card]:
    """The metadata of a package that takes what the card in it says, and that card. Raises ModelError."""
    description = model.get_spec().description
    metadata = dict(description.metadata.userDefined)
    text = metadata.get(ONNX_KEY)
    if text is None:
        raise ModelError(
            f"{path}: expected a package of vtad-export with its inspection card, got one without; {AGAIN}"
        )
    try:
        card = Card.from_json(text, str(path))
    except CardError as e:
        raise ModelError(str(e)) from e
    functions = [f for f in description.functions if f.name == description.defaultFunctionName]
    described = functions[0] if functions else description  # from iOS 18 on a package may have several functions
    inputs = [(i.name, i.type.imageType.width, i.type.imageType.height) for i in described.input]
    expected = (card.input.name, card.input.width, card.input.height)
    if inputs != [expected]:
        raise ModelError(f"{path}: expected one image {expected} as on its card, got {inputs}; export the run again")
    outputs = [o.name for o in described.output]
    if path.stem.endswith(VERDICT):
        whole = path.with_stem(path.stem.removesuffix(VERDICT))
        raise ModelError(f"{path}: gives score and heatmap alone, for apps; run {whole}, which gives everything")
    if not set(OUTPUTS) <= graph_names(outputs).keys():
        raise ModelError(f"{path}: expected outputs {', '.join(OUTPUTS)}, got {outputs}; export the run again")
    return metadata, card
