"""Opens an ONNX model by onnxruntime, reads the card inside it, refuses what does not match, and runs batches.

At first only the part of the graph that a verdict needs is opened (`subgraph`); the whole when somebody asks for everything.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from vtad_runtime.contract.card import AGAIN, ONNX_KEY, REFERENCES_KEY
from vtad_runtime.contract.errors import NOT_JUDGED, one_line
from vtad_runtime.engine.callers import cores
from vtad_runtime.engine.declared import Port, batch_of, card_of, in_batches, names_of
from vtad_runtime.engine.engines import CPU, CPU_PROVIDER, ENGINES, Engine, cache_folder
from vtad_runtime.engine.integrity import integrity, opened, whole_file
from vtad_runtime.engine.model import (
    IN_MEMORY,
    MAX_BATCH,
    Found,
    ModelError,
    Outputs,
    Scored,
    checked,
    names_in,
    references_of,
)
from vtad_runtime.engine.subgraph import verdict_part

if TYPE_CHECKING:
    from vtad_runtime.contract.references import References

SPIN_US = "1000"


class OnnxSession:
    """One opened ONNX model. `card` is the card it carries; `integrity` whether it is as it was exported."""

    def __init__(
        self,
        model: Path | str | bytes,
        threads: int | None = None,
        *,
        engine: str = CPU,
        callers: int = 1,
        at_once: int = 1,
        allow_changed: bool = False,
    ) -> None:
        """Open a file, or the bytes of one, with `threads` CPU threads, at most one a core (None: onnxruntime decides).

        `engine` is one of onnxruntime's among `ENGINES`. The CPU runs it for `callers` at once, see `OpenModel`, and takes
        `at_once` pictures of a batch: what is computed on the way to more leaves its caches, and fills memory. Raises
        ModelError: it is no model of vtad-export, or was changed since, unless `allow_changed`; or the engine is not there.
        """
        self.engine, self.callers = engine, callers if engine == CPU else 1
        self.path = Path(IN_MEMORY if isinstance(model, bytes) else model)
        # The bytes are kept until the whole is opened, for a file may be exchanged by then.
        self._data = model if isinstance(model, bytes) else whole_file(self.path)
        found = opened(self._data, self.path, allow_changed)
        part = verdict_part(self._data)
        self._options, of_verdict = _options(threads, self.callers), part.model if part else self._data
        self._verdict = _open(self.path, of_verdict, self._options, ENGINES[engine])
        inputs, self._references, text, producer = _declared(self._verdict, self.path)
        self.card = card_of(text, inputs, producer, self.path)
        self._batch, self._at_once = batch_of(self.card), at_once if engine == CPU else MAX_BATCH
        if self.callers > 1 and (self._batch or 1) > 1:
            self.callers, self._options = 1, _options(threads, 1)
            self._verdict = _open(self.path, of_verdict, self._options, ENGINES[engine])
        self._whole = None if part else self._verdict
        outputs = [Port(o.name, o.type, tuple(o.shape)) for o in self._verdict.get_outputs()]
        self._names = names_of(inputs, part.outputs if part else outputs, self.card, self.path)
        self.integrity = found or integrity(self._data, self.path)
        self._opening = threading.Lock()

    def run(self, batch: NDArray[np.uint8]) -> Outputs:
        """Run (n, 3, height, width) uint8 RGB, n = 1..64. Raises ModelError: the run fails or breaks the contract."""
        return self._in_turn(self._everything(), Outputs, batch)

    def verdict(self, batch: NDArray[np.uint8]) -> Scored:
        """The same for score and heatmap alone. Raises ModelError."""
        return self._in_turn(self._verdict, Scored, batch)

    def open_whole(self) -> None:
        """Open the whole graph now. Raises ModelError."""
        self._everything()

    def references(self) -> References | None:
        """The reference pictures in the file; None where there are none. Raises ReferencesError."""
        return references_of(self._references, self.card, self.path)

    def _everything(self) -> ort.InferenceSession:
        with self._opening:
            if self._whole is None:
                self._whole = _open(self.path, self._data, self._options, ENGINES[self.engine])
                self._data = b""
            return self._whole

    def _in_turn(self, session: ort.InferenceSession, kind: type[Found], batch: NDArray[np.uint8]) -> Found:
        size = self._batch or min(self._at_once, len(batch))
        return in_batches(batch, size, lambda taken: self._run(session, kind, taken))

    def _run(self, session: ort.InferenceSession, kind: type[Found], batch: NDArray[np.uint8]) -> Found:
        names = names_in(kind)
        try:
            values = session.run([self._names[name] for name in names], {self.card.input.name: batch})
        except Exception as e:  # onnxruntime's errors share no base class
            raise ModelError(
                f"{self.path}: expected a run on a batch of {len(batch)}, got {one_line(e)}", NOT_JUDGED
            ) from e
        return checked(kind, dict(zip(names, values, strict=True)), len(batch), self.card, self.path)


def _options(threads: int | None, callers: int) -> ort.SessionOptions:
    """For so many callers at once, who are threads of the `threads` themselves."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions; its log would repeat them on stderr
    options.inter_op_num_threads = 1
    if callers > 1:
        threads = max(min(threads or cores(), cores()) - callers + 1, 1)
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # decoding needs every core
    else:  # a thread that sleeps comes late to each operation; one that spins for long starves capture and writing
        options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_US)
        options.add_session_config_entry("session.force_spinning_stop", "1")  # with the run
    options.intra_op_num_threads = min(threads or 0, os.cpu_count() or 1)  # more gain nothing
    return options


def _open(path: Path, data: bytes, options: ort.SessionOptions, engine: Engine) -> ort.InferenceSession:
    if engine.provider not in (found := ort.get_available_providers()):
        raise ModelError(
            f"engine {engine.name}: expected an onnxruntime with {engine.provider}, got {', '.join(found) or 'none'}; it comes "
            f"with {engine.extra}"
        )
    try:
        session = ort.InferenceSession(data, options, providers=_providers(engine))
    except Exception as e:  # onnxruntime's errors share no base class
        raise ModelError(
            f"{path}: expected an ONNX model, got a file that onnxruntime refuses ({one_line(e)}); {AGAIN}"
        ) from e
    if engine.provider not in (taken := session.get_providers()):  # it falls back to the CPU without a word
        raise ModelError(
            f"{path}: expected {engine.provider} to take it, got {', '.join(taken)}: "
            f"its libraries or its device are missing; take --engine {CPU}"
        )
    return session


def _providers(engine: Engine) -> list[Any]:
    options = dict(engine.options)
    if engine.caches and (folder := cache_folder(engine.name)):
        options |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder)}
    own = [(engine.provider, options)] if options else [engine.provider]
    return own if engine.provider == CPU_PROVIDER else [*own, CPU_PROVIDER]


def _declared(session: ort.InferenceSession, path: Path) -> tuple[list[Port], str | None, str | None, str]:
    """What a graph says of itself: its inputs, the texts of reference pictures and card, who made it."""
    try:
        meta = session.get_modelmeta()
        texts = meta.custom_metadata_map
    except UnicodeDecodeError as e:
        raise ModelError(f"{path}: expected text in the metadata, got bytes that are none: copy the file again") from e
    inputs = [Port(i.name, i.type, tuple(i.shape)) for i in session.get_inputs()]
    return inputs, texts.get(REFERENCES_KEY), texts.get(ONNX_KEY), meta.producer_name
