"""Opens an ONNX model by onnxruntime, reads the card inside it, refuses what does not match, and runs batches.

At first only the part of the graph that a verdict needs is opened (`subgraph`); the whole when somebody asks for everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from vtad_runtime.contract.card import AGAIN, ONNX_KEY, REFERENCES_KEY
from vtad_runtime.contract.errors import one_line
from vtad_runtime.engine.callers import cores
from vtad_runtime.engine.declared import Port, batch_of, card_of, names_of
from vtad_runtime.engine.engines import CPU, CPU_PROVIDER, ENGINES, Engine, cache_folder
from vtad_runtime.engine.integrity import integrity, opened, whole_file
from vtad_runtime.engine.model import IN_MEMORY, MAX_BATCH, ModelError
from vtad_runtime.engine.subgraph import verdict_part
from vtad_runtime.engine.two_entries import TwoEntries

SPIN_US = "1000"


class OnnxSession(TwoEntries[ort.InferenceSession]):
    """A model that onnxruntime runs."""

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
        super().__init__()
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
        self._batch, self._most = batch_of(self.card), at_once if engine == CPU else MAX_BATCH
        if self.callers > 1 and (self._batch or 1) > 1:
            self.callers, self._options = 1, _options(threads, 1)
            self._verdict = _open(self.path, of_verdict, self._options, ENGINES[engine])
        self._whole = None if part else self._verdict
        outputs = [Port(o.name, o.type, tuple(o.shape)) for o in self._verdict.get_outputs()]
        self._names = names_of(inputs, part.outputs if part else outputs, self.card, self.path)
        self.integrity = found or integrity(self._data, self.path)

    def _open_whole(self) -> ort.InferenceSession:
        session = _open(self.path, self._data, self._options, ENGINES[self.engine])
        self._data = b""
        return session

    def _at_once(self, pictures: int) -> int:
        return self._batch or min(self._most, pictures)

    def _infer(
        self, entry: ort.InferenceSession, names: list[str], batch: NDArray[np.uint8]
    ) -> Sequence[NDArray[np.float32]]:
        values: Sequence[NDArray[np.float32]] = entry.run(names, {self.card.input.name: batch})
        return values


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
    options.intra_op_num_threads = min(threads or 0, cores())  # more gain nothing
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
