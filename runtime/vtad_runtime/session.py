"""Opens an exported ONNX model, reads the card inside it, refuses what does not match, and runs batches.

The graph: input uint8 RGB (batch, 3, height, width); outputs, all float32, `score` (batch,), `heatmap`, `ssim_map` and
`nll_map` (batch, height, width) in units of normal variation, `reconstruction` (batch, 3, height, width) in 0..1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from vtad_runtime.card import ONNX_KEY, Card, CardError

MAX_BATCH = 64  # the export's upper bound of the free axis
MAPS = ("heatmap", "ssim_map", "nll_map")
OUTPUTS = ("score", *MAPS, "reconstruction")


class ModelError(ValueError):
    """A model file that cannot be used, or a run of it that failed. One line: expected, got, where, what to do."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """What the graph says about a batch of n pictures; float32."""

    score: NDArray[np.float32]  # (n,)
    heatmap: NDArray[np.float32]  # (n, height, width), units of normal variation
    ssim_map: NDArray[np.float32]  # (n, height, width), units of normal variation
    nll_map: NDArray[np.float32]  # (n, height, width), units of normal variation
    reconstruction: NDArray[np.float32]  # (n, 3, height, width), 0..1


class Session:
    """One opened model. `card` is the card it carries."""

    def __init__(self, path: Path | str, threads: int | None = None, providers: tuple[str, ...] | None = None) -> None:
        """Open `path` with `threads` CPU threads (None: onnxruntime decides). Raises ModelError."""
        self.path = Path(path)
        self._session = _open(self.path, threads, providers or ("CPUExecutionProvider",))
        self.card = _card(self._session, self.path)
        _match(self._session, self.card, self.path)

    def run(self, batch: NDArray[np.uint8]) -> Outputs:
        """Run (n, 3, height, width) uint8 RGB, n = 1..64. Raises ModelError: the run fails or breaks the contract."""
        spec, n = self.card.input, len(batch)
        try:
            values = self._session.run(list(OUTPUTS), {spec.name: batch})
        except Exception as e:  # onnxruntime's errors share no base class
            raise ModelError(f"{self.path}: expected a run on a batch of {n}, got {_line(e)}") from e
        plane = (spec.height, spec.width)
        expected = {"score": (n,), **dict.fromkeys(MAPS, (n, *plane)), "reconstruction": (n, 3, *plane)}
        for name, value in zip(OUTPUTS, values, strict=True):
            if value.shape != expected[name]:
                raise ModelError(f"{self.path}: output {name}: expected shape {expected[name]}, got {value.shape}")
        return Outputs(**dict(zip(OUTPUTS, values, strict=True)))


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
        raise ModelError(f"{path}: expected an ONNX model, got a file that onnxruntime refuses ({_line(e)})") from e


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
        card = Card.from_json(text, str(path))
    except CardError as e:
        raise ModelError(str(e)) from e
    c = card.calibration
    if not (math.isfinite(c.threshold) and math.isfinite(c.pixel_threshold) and c.pixel_threshold > 0):
        raise ModelError(
            f"{path}: expected finite thresholds and a pixel threshold above 0, "
            f"got {c.threshold} and {c.pixel_threshold}; train and export again"
        )
    return card


def _match(session: ort.InferenceSession, card: Card, path: Path) -> None:
    """Raise ModelError where the graph is not the one the card describes."""
    spec, inputs = card.input, session.get_inputs()
    expected: list[Any] = [spec.name, "tensor(uint8)", [3, spec.height, spec.width]]
    got = [[i.name, i.type, list(i.shape[1:])] for i in inputs]
    if got != [expected] or isinstance(inputs[0].shape[0], int):
        raise ModelError(
            f"{path}: expected one input {spec.name} tensor(uint8) ['batch', 3, {spec.height}, {spec.width}] as on its "
            f"card, got {', '.join(f'{i.name} {i.type} {i.shape}' for i in inputs) or 'none'}; export the run again"
        )
    outputs = {o.name: o.type for o in session.get_outputs()}
    declared = {o.name for o in card.outputs}
    if declared != outputs.keys() or any(outputs.get(name) != "tensor(float)" for name in OUTPUTS):
        raise ModelError(
            f"{path}: expected float outputs {', '.join(OUTPUTS)}, got {outputs} in the graph "
            f"and {sorted(declared)} on its card; export the run again"
        )


def _line(error: Exception) -> str:
    """An onnxruntime message as one short line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
