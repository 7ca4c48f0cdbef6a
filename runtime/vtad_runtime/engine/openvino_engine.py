"""Opens an ONNX model by OpenVINO (extra `openvino`), on the CPU, in float32 or in bfloat16 where the processor has it.

Pictures run one at a time: graphs of a fixed shape are faster than those of a free one. What was compiled is kept in the user's
cache folder, so that a second start does not compile anew. https://docs.openvino.ai
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.card import ONNX_KEY
from vtad_runtime.contract.errors import NOT_JUDGED, one_line
from vtad_runtime.contract.references import REFERENCES_KEY, References
from vtad_runtime.engine.declared import FLOAT, UINT8, Port, batch_of, card_of, in_batches, names_of
from vtad_runtime.engine.engines import cache_folder
from vtad_runtime.engine.integrity import integrity, opened
from vtad_runtime.engine.model import IN_MEMORY, OUTPUTS, ModelError, Outputs, checked

PRECISION = {"openvino": "f32", "openvino-bf16": "bf16"}  # of computing, by the engine's name
TYPES = {"u8": UINT8, "f32": FLOAT}
DEVICE = "CPU"


class OpenVinoSession:
    """One opened ONNX model. `card` is the card it carries; `integrity` whether it is as it was exported."""

    def __init__(
        self,
        model: Path | str | bytes,
        threads: int | None = None,
        *,
        engine: str = "openvino",
        allow_changed: bool = False,
    ) -> None:
        """Open a file, or the bytes of one, with `threads` CPU threads, at most one a core (None: all cores).

        Raises ModelError: OpenVINO is not installed or refuses the model; the processor has no bfloat16; it is no model of
        vtad-export, or was changed since, unless `allow_changed`.
        """
        data = model if isinstance(model, bytes) else None
        self.engine = engine
        self.path = Path(IN_MEMORY if isinstance(model, bytes) else model)
        if data is None and not self.path.is_file():
            raise ModelError(f"{self.path}: expected an .onnx model file, got none; vtad-export makes one")
        found = opened(data or self.path, self.path, allow_changed)
        core = _core(engine)
        try:
            graph = core.read_model(str(self.path)) if data is None else core.read_model(data, b"")
        except Exception as e:  # OpenVINO's errors are RuntimeErrors of several lines
            raise ModelError(
                f"{self.path}: expected an ONNX model, got a file that OpenVINO refuses ({one_line(e)})"
            ) from e
        inputs = [_port(i) for i in graph.inputs]
        self.card = card_of(_text(graph, ONNX_KEY), inputs, "", self.path)
        self._names = names_of(inputs, [_port(o) for o in graph.outputs], self.card, self.path)
        self._references = _text(graph, REFERENCES_KEY)
        self.integrity = found or integrity(data or self.path)
        self._batch = batch_of(self.card) or 1
        spec = self.card.input
        try:
            graph.reshape([self._batch, 3, spec.height, spec.width])
            self._compiled = core.compile_model(graph, DEVICE, _options(engine, threads))
        except Exception as e:
            raise ModelError(f"{self.path}: expected a graph that OpenVINO compiles, got {one_line(e)}") from e
        self._of_thread = threading.local()  # a request is of one thread

    def run(self, batch: NDArray[np.uint8]) -> Outputs:
        """Run (n, 3, height, width) uint8 RGB, n = 1..64. Raises ModelError: the run fails or breaks the contract."""
        return in_batches(batch, self._batch, self._run)

    def references(self) -> References | None:
        """The reference pictures in the file; None where there are none. Raises ReferencesError."""
        text = self._references
        return None if text is None else References.from_text(text, self.card, str(self.path))

    def _run(self, batch: NDArray[np.uint8]) -> Outputs:
        try:
            if (request := getattr(self._of_thread, "request", None)) is None:
                request = self._of_thread.request = self._compiled.create_infer_request()
            request.infer([np.ascontiguousarray(batch)])
            values = {
                name: np.array(request.get_tensor(own).data, np.float32)
                for name, own in zip(OUTPUTS, self._names, strict=True)
            }
        except Exception as e:
            raise ModelError(
                f"{self.path}: expected a run on a batch of {len(batch)}, got {one_line(e)}", NOT_JUDGED
            ) from e
        return checked(values, len(batch), self.card, self.path)


def _core(engine: str) -> Any:
    try:
        import openvino
    except ImportError as e:
        raise ModelError(
            f"engine {engine}: expected OpenVINO, got none ({one_line(e)}): pip install 'vtad[openvino]'"
        ) from e
    core = openvino.Core()
    if PRECISION[engine] == "bf16" and "BF16" not in core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"):
        raise ModelError(
            f"engine {engine}: expected a processor with bfloat16, got one without: take --engine openvino"
        )
    return core


def _options(engine: str, threads: int | None) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": PRECISION[engine],
        "INFERENCE_NUM_THREADS": min(threads or os.cpu_count() or 1, os.cpu_count() or 1),
        "NUM_STREAMS": 1,  # one picture as fast as can be
        "CACHE_DIR": str(cache_folder() / "openvino"),
    }


def _port(node: Any) -> Port:
    shape = tuple(d.get_length() if d.is_static else "batch" for d in node.partial_shape)
    kind = node.element_type.get_type_name()
    return Port(node.any_name, TYPES.get(kind, kind), shape)


def _text(graph: Any, key: str) -> str | None:
    """A text of the ONNX file's metadata."""
    place = ["framework", key]
    return str(graph.get_rt_info(place).value) if graph.has_rt_info(place) else None
