"""Opens an exported model, reads the card inside it, refuses what does not match, and runs batches.

`open_session` chooses by the file's kind: ONNX here, Core ML in `coreml_session`.
The ONNX graph: input uint8 RGB (batch, 3, height, width); outputs, all float32, `score` (batch,), `heatmap`, `ssim_map` and
`nll_map` (batch, height, width) in units of normal variation, `reconstruction` (batch, 3, height, width) in 0..1. `batch` is
free, or 1 where a picture's numbers would depend on its neighbours: int8 rounds by the range of all that it is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from vtad_runtime.contract.card import ONNX_KEY, Card, CardError
from vtad_runtime.contract.errors import NOT_JUDGED, VtadError, one_line

MAX_BATCH = 64  # the export's upper bound of the free axis
MAPS = ("heatmap", "ssim_map", "nll_map")
OUTPUTS = ("score", *MAPS, "reconstruction")


class ModelError(VtadError):
    """A model file that cannot be used, or a run of it that failed. One line: expected, got, where, what to do."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """What the graph says about a batch of n pictures; float32."""

    score: NDArray[np.float32]  # (n,)
    heatmap: NDArray[np.float32]  # (n, height, width), units of normal variation
    ssim_map: NDArray[np.float32]  # (n, height, width), units of normal variation
    nll_map: NDArray[np.float32]  # (n, height, width), units of normal variation
    reconstruction: NDArray[np.float32]  # (n, 3, height, width), 0..1


class OpenModel(Protocol):
    """What a detector needs of an opened model, of whatever format."""

    path: Path
    card: Card

    def run(self, batch: NDArray[np.uint8]) -> Outputs:
        """Run (n, 3, height, width) uint8 RGB, n = 1..64. Raises ModelError."""
        ...


def open_session(path: Path | str, threads: int | None = None) -> OpenModel:
    """Open an .mlpackage with Core ML, anything else with onnxruntime and `threads` CPU threads. Raises ModelError.

    Core ML decides on its threads itself.
    """
    path = Path(path)
    if path.suffix == ".mlpackage":
        from vtad_runtime.engine.coreml_engine import CoreMLSession

        return CoreMLSession(path)
    return Session(path, threads)


def newest_export(runs: Path) -> Path | None:
    """The newest export in `runs`/<category>/<number>/export, in the format that this machine runs; None without any.

    An export is a package and its twin, pill.mlpackage and pill.onnx (`twin_of`), or one of them. A Mac with coremltools takes
    the package. Where the newest export is a package alone and this is no Mac, that package: opening it says what to do.
    """
    from vtad_runtime.engine.coreml_engine import runs_packages

    found = [p for suffix in (".onnx", ".mlpackage") for p in runs.glob(f"*/*/export/*{suffix}")]
    if not found:
        return None
    last = max(found, key=lambda p: (p.stat().st_mtime, str(p)))
    package = last.with_suffix(".mlpackage")
    twin = twin_of(package)
    if twin.is_file() and not (package.is_dir() and runs_packages()):
        return twin
    return package


def twin_of(package: Path) -> Path:
    """The ONNX model that runs in place of a package where that does not: of the same name, whether it is there or not.

    Where pill-int8.mlpackage has no pill-int8.onnx beside it, its twin is the float32 model, pill.onnx.
    """
    own = package.with_suffix(".onnx")
    plain = own.with_stem(own.stem.removesuffix("-int8"))
    return plain if plain.is_file() and not own.is_file() else own


class Session:
    """One opened ONNX model. `card` is the card it carries."""

    def __init__(self, path: Path | str, threads: int | None = None, providers: tuple[str, ...] | None = None) -> None:
        """Open `path` with `threads` CPU threads (None: onnxruntime decides). Raises ModelError."""
        self.path = Path(path)
        self._session = _open(self.path, threads, providers or ("CPUExecutionProvider",))
        self.card = _card(self._session, self.path)
        _match(self._session, self.card, self.path)
        self._one_by_one = _takes_one(self.card)

    def run(self, batch: NDArray[np.uint8]) -> Outputs:
        """Run (n, 3, height, width) uint8 RGB, n = 1..64. Raises ModelError: the run fails or breaks the contract.

        A graph whose batch is 1 is given the pictures one by one.
        """
        if self._one_by_one and len(batch) > 1:
            return joined([self._run(batch[i : i + 1]) for i in range(len(batch))])
        return self._run(batch)

    def _run(self, batch: NDArray[np.uint8]) -> Outputs:
        try:
            values = self._session.run(list(OUTPUTS), {self.card.input.name: batch})
        except Exception as e:  # onnxruntime's errors share no base class
            raise ModelError(
                f"{self.path}: expected a run on a batch of {len(batch)}, got {one_line(e)}", NOT_JUDGED
            ) from e
        return checked(dict(zip(OUTPUTS, values, strict=True)), len(batch), self.card, self.path)


def joined(parts: list[Outputs]) -> Outputs:
    """The outputs of pictures that were run one by one, at least one."""
    return Outputs(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in OUTPUTS})


def checked(values: dict[str, NDArray[np.float32]], n: int, card: Card, path: Path) -> Outputs:
    """The outputs of a batch of `n`. Raises ModelError where a shape breaks the contract."""
    plane = (card.input.height, card.input.width)
    expected = {"score": (n,), **dict.fromkeys(MAPS, (n, *plane)), "reconstruction": (n, 3, *plane)}
    for name in OUTPUTS:
        if values[name].shape != expected[name]:
            raise ModelError(
                f"{path}: output {name}: expected shape {expected[name]}, got {values[name].shape}", NOT_JUDGED
            )
    return Outputs(**{name: values[name] for name in OUTPUTS})


def _open(path: Path, threads: int | None, providers: tuple[str, ...]) -> ort.InferenceSession:
    if not path.is_file():
        got = "a folder" if path.is_dir() else "nothing there"
        raise ModelError(f"{path}: expected an .onnx model file, got {got}; vtad-export makes one")
    missing = set(providers) - set(ort.get_available_providers())
    if missing:
        raise ModelError(f"expected one of {ort.get_available_providers()}, got provider {', '.join(sorted(missing))}")
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions; its log would repeat them on stderr
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning threads starve the decoders
    try:
        return ort.InferenceSession(str(path), options, providers=list(providers))
    except Exception as e:  # onnxruntime's errors share no base class
        raise ModelError(f"{path}: expected an ONNX model, got a file that onnxruntime refuses ({one_line(e)})") from e


def _card(session: ort.InferenceSession, path: Path) -> Card:
    meta = session.get_modelmeta()
    text = meta.custom_metadata_map.get(ONNX_KEY)
    if text is None:
        inputs = ", ".join(f"{i.name} {i.type} {i.shape}" for i in session.get_inputs())
        raise ModelError(
            f"{path}: expected a model of vtad-export with its inspection card, got an ONNX model without one "
            f"(producer {meta.producer_name or 'unknown'}, inputs {inputs})"
        )
    try:
        return Card.from_json(text, str(path))
    except CardError as e:
        raise ModelError(str(e)) from e


def _match(session: ort.InferenceSession, card: Card, path: Path) -> None:
    """Raise ModelError where the graph is not the one the card describes."""
    spec, inputs = card.input, session.get_inputs()
    expected: list[Any] = [spec.name, "tensor(uint8)", [3, spec.height, spec.width]]
    got = [[i.name, i.type, list(i.shape[1:])] for i in inputs]
    batch: int | str = 1 if _takes_one(card) else "batch"
    if got != [expected] or _fixed(inputs[0].shape[0]) != _fixed(batch):
        raise ModelError(
            f"{path}: expected one input {spec.name} tensor(uint8) {[batch, 3, spec.height, spec.width]} as on its "
            f"card, got {', '.join(f'{i.name} {i.type} {i.shape}' for i in inputs) or 'none'}; export the run again"
        )
    outputs = {o.name: o.type for o in session.get_outputs()}
    declared = {o.name for o in card.outputs}
    if declared != outputs.keys() or any(outputs.get(name) != "tensor(float)" for name in OUTPUTS):
        raise ModelError(
            f"{path}: expected float outputs {', '.join(OUTPUTS)}, got {outputs} in the graph "
            f"and {sorted(declared)} on its card; export the run again"
        )


def _takes_one(card: Card) -> bool:
    """Whether the artefact takes one picture at a time: its card says that it gives one score."""
    return any(o.name == "score" and o.shape == (1,) for o in card.outputs)


def _fixed(batch: int | str | None) -> int | None:
    """The size of an axis; None where it is free."""
    return batch if isinstance(batch, int) else None
