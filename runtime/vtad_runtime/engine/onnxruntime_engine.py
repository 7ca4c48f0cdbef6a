"""Opens an ONNX model by onnxruntime, reads the card inside it, refuses what does not match, and runs batches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from vtad_runtime.contract.card import ONNX_KEY, Card, CardError
from vtad_runtime.contract.errors import NOT_JUDGED, one_line
from vtad_runtime.contract.references import REFERENCES_KEY, References
from vtad_runtime.engine.integrity import integrity, opened
from vtad_runtime.engine.model import OUTPUTS, ModelError, Outputs, checked, graph_names

PROVIDER = "CPUExecutionProvider"
IN_MEMORY = "<bytes>"  # the path of a model that was given as bytes


class OnnxSession:
    """One opened ONNX model. `card` is the card it carries; `integrity` whether it is as it was exported."""

    def __init__(self, model: Path | str | bytes, threads: int | None = None, *, allow_changed: bool = False) -> None:
        """Open a file, or the bytes of one, with `threads` CPU threads, at most one a core (None: onnxruntime decides).

        Raises ModelError: it is no model of vtad-export, or was changed since, unless `allow_changed`.
        """
        data = model if isinstance(model, bytes) else None
        self.path = Path(IN_MEMORY if isinstance(model, bytes) else model)
        found = opened(data or self.path, self.path, allow_changed)
        self._session = _open(self.path, data, threads)
        self.card = _card(self._session, self.path)
        self._names = _match(self._session, self.card, self.path)
        self.integrity = found or integrity(data or self.path)
        self._batch = _batch(self.card)

    def run(self, batch: NDArray[np.uint8]) -> Outputs:
        """Run (n, 3, height, width) uint8 RGB, n = 1..64. Raises ModelError: the run fails or breaks the contract.

        A graph whose batch is fixed is given as many at a time; the last ones are filled up with copies, which nobody sees.
        """
        size = self._batch or len(batch)
        if len(batch) == size:
            return self._run(batch)
        missing = -len(batch) % size
        filled = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
        return _joined([self._run(filled[i : i + size]) for i in range(0, len(filled), size)], len(batch))

    def references(self) -> References | None:
        """The reference pictures in the file; None where there are none. Raises ReferencesError."""
        text = self._session.get_modelmeta().custom_metadata_map.get(REFERENCES_KEY)
        return None if text is None else References.from_text(text, self.card, str(self.path))

    def _run(self, batch: NDArray[np.uint8]) -> Outputs:
        try:
            values = self._session.run(self._names, {self.card.input.name: batch})
        except Exception as e:  # onnxruntime's errors share no base class
            raise ModelError(
                f"{self.path}: expected a run on a batch of {len(batch)}, got {one_line(e)}", NOT_JUDGED
            ) from e
        return checked(dict(zip(OUTPUTS, values, strict=True)), len(batch), self.card, self.path)


def _joined(parts: list[Outputs], pictures: int) -> Outputs:
    """The outputs of the first `pictures` of several batches, at least one."""
    return Outputs(**{name: np.concatenate([getattr(part, name) for part in parts])[:pictures] for name in OUTPUTS})


def _open(path: Path, data: bytes | None, threads: int | None) -> ort.InferenceSession:
    if data is None and not path.is_file():
        got = "a folder" if path.is_dir() else "nothing there"
        raise ModelError(f"{path}: expected an .onnx model file, got {got}; vtad-export makes one")
    if PROVIDER not in (found := ort.get_available_providers()):
        raise ModelError(f"expected an onnxruntime with {PROVIDER}, got {', '.join(found) or 'none'}")
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions; its log would repeat them on stderr
    options.intra_op_num_threads = min(threads or 0, os.cpu_count() or 1)  # more gain nothing
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning threads starve the decoders
    try:
        return ort.InferenceSession(str(path) if data is None else data, options, providers=[PROVIDER])
    except Exception as e:  # onnxruntime's errors share no base class
        raise ModelError(f"{path}: expected an ONNX model, got a file that onnxruntime refuses ({one_line(e)})") from e


def _card(session: ort.InferenceSession, path: Path) -> Card:
    try:
        meta = session.get_modelmeta()
        text = meta.custom_metadata_map.get(ONNX_KEY)
    except UnicodeDecodeError as e:
        raise ModelError(f"{path}: expected text in the metadata, got bytes that are none: copy the file again") from e
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


def _match(session: ort.InferenceSession, card: Card, path: Path) -> list[str]:
    """The names of OUTPUTS in the graph. Raises ModelError where the graph is not the one the card describes."""
    spec, inputs = card.input, session.get_inputs()
    expected: list[Any] = [spec.name, "tensor(uint8)", [3, spec.height, spec.width]]
    got = [[i.name, i.type, list(i.shape[1:])] for i in inputs]
    batch = _batch(card) or "batch"
    if got != [expected] or _fixed(inputs[0].shape[0]) != _fixed(batch):
        raise ModelError(
            f"{path}: expected one input {spec.name} tensor(uint8) {[batch, 3, spec.height, spec.width]} as on its "
            f"card, got {', '.join(f'{i.name} {i.type} {i.shape}' for i in inputs) or 'none'}; export the run again"
        )
    outputs = {o.name: o.type for o in session.get_outputs()}
    declared, names = {o.name for o in card.outputs}, graph_names(outputs)
    if declared != names.keys() or any(outputs.get(names.get(name, "")) != "tensor(float)" for name in OUTPUTS):
        raise ModelError(
            f"{path}: expected float outputs {', '.join(OUTPUTS)}, got {outputs} in the graph "
            f"and {sorted(declared)} on its card; export the run again"
        )
    return [names[name] for name in OUTPUTS]


def _batch(card: Card) -> int | None:
    """How many pictures the artefact takes at a time: as many as it gives scores, by its card. None: any number."""
    return next((_fixed(o.shape[0]) for o in card.outputs if o.name == "score" and o.shape), None)


def _fixed(batch: int | str | None) -> int | None:
    """The size of an axis; None where it is free."""
    return batch if isinstance(batch, int) else None
