"""Opens an ONNX model by OpenVINO (extra `openvino`), on the CPU, in float32 or in bfloat16 where the processor has it.

Pictures run one at a time: graphs of a fixed shape are faster than those of a free one. At first only the part of the graph that
a verdict needs is compiled; the whole when somebody asks for everything. What was compiled is kept in the user's cache folder, so
that a second start does not compile anew. https://docs.openvino.ai
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.card import AGAIN, ONNX_KEY, REFERENCES_KEY
from vtad_runtime.contract.errors import NOT_JUDGED, one_line
from vtad_runtime.engine.declared import FLOAT, UINT8, Port, batch_of, card_of, in_batches, names_of
from vtad_runtime.engine.engines import cache_folder
from vtad_runtime.engine.integrity import integrity, opened, whole_file
from vtad_runtime.engine.model import (
    IN_MEMORY,
    SCORED,
    Found,
    ModelError,
    Outputs,
    Scored,
    checked,
    names_in,
    references_of,
)

if TYPE_CHECKING:
    from vtad_runtime.contract.references import References

PRECISION = {"openvino": "f32", "openvino-bf16": "bf16"}  # of computing, by the engine's name
TYPES = {"u8": UINT8, "f32": FLOAT}
DEVICE = "CPU"
TELEMETRY = "openvino_telemetry"  # a package by which importing OpenVINO tells Google Analytics of it
_tables = threading.Lock()


class OpenVinoSession:
    """One opened ONNX model. `card` is the card it carries; `integrity` whether it is as it was exported."""

    def __init__(
        self,
        model: Path | str | bytes,
        threads: int | None = None,
        *,
        engine: str = "openvino",
        callers: int = 1,
        allow_changed: bool = False,
    ) -> None:
        """Open a file, or the bytes of one, with `threads` CPU threads, at most one a core (None: all cores).

        It runs for `callers` at once, see `OpenModel`. Raises ModelError: OpenVINO is not installed or refuses the model; the
        processor has no bfloat16; it is no model of vtad-export, or was changed since, unless `allow_changed`.
        """
        self.engine = engine
        self.path = Path(IN_MEMORY if isinstance(model, bytes) else model)
        data = model if isinstance(model, bytes) else whole_file(self.path)
        found = opened(data, self.path, allow_changed)
        core = _core(engine)
        try:
            graph = core.read_model(data, b"")
        except Exception as e:  # OpenVINO's errors are RuntimeErrors of several lines
            raise ModelError(
                f"{self.path}: expected an ONNX model, got a file that OpenVINO refuses ({one_line(e)}); {AGAIN}"
            ) from e
        inputs = [_port(i) for i in graph.inputs]
        self.card = card_of(_text(graph, ONNX_KEY), inputs, "", self.path)
        self._names = names_of(inputs, [_port(o) for o in graph.outputs], self.card, self.path)
        self._references = _text(graph, REFERENCES_KEY)
        self.integrity = found or integrity(data, self.path)
        self._batch = batch_of(self.card) or 1
        self.callers = callers if self._batch == 1 else 1
        spec = self.card.input
        try:
            graph.reshape([self._batch, 3, spec.height, spec.width])
            part = _part(graph, [self._names[name] for name in SCORED])
        except Exception as e:
            raise ModelError(
                f"{self.path}: expected a graph that OpenVINO compiles, got {one_line(e)}; take --engine cpu"
            ) from e
        self._compile = partial(_compiled, core, options=_options(engine, threads, self.callers), path=self.path)
        self._verdict = _Requests(self._compile(part))
        self._graph, self._opening = graph, threading.Lock()
        self._whole: _Requests | None = None

    def run(self, batch: NDArray[np.uint8]) -> Outputs:
        """Run (n, 3, height, width) uint8 RGB, n = 1..64. Raises ModelError: the run fails or breaks the contract."""
        return self._in_turn(self._everything(), Outputs, batch)

    def verdict(self, batch: NDArray[np.uint8]) -> Scored:
        """The same for score and heatmap alone. Raises ModelError."""
        return self._in_turn(self._verdict, Scored, batch)

    def open_whole(self) -> None:
        """Compile the whole graph now. Raises ModelError."""
        self._everything()

    def references(self) -> References | None:
        """The reference pictures in the file; None where there are none. Raises ReferencesError."""
        return references_of(self._references, self.card, self.path)

    def _everything(self) -> _Requests:
        with self._opening:
            if self._whole is None:
                self._whole, self._graph = _Requests(self._compile(self._graph)), None
            return self._whole

    def _in_turn(self, requests: _Requests, kind: type[Found], batch: NDArray[np.uint8]) -> Found:
        return in_batches(batch, self._batch, lambda taken: self._run(requests, kind, taken))

    def _run(self, requests: _Requests, kind: type[Found], batch: NDArray[np.uint8]) -> Found:
        try:
            with requests.one() as request:
                request.infer([np.ascontiguousarray(batch)])
                tensors = {name: request.get_tensor(self._names[name]).data for name in names_in(kind)}
                values = {name: np.array(data, np.float32) for name, data in tensors.items()}
        except Exception as e:
            raise ModelError(
                f"{self.path}: expected a run on a batch of {len(batch)}, got {one_line(e)}", NOT_JUDGED
            ) from e
        return checked(kind, values, len(batch), self.card, self.path)


class _Requests:
    """A compiled graph. A request is used by one thread at a time."""

    def __init__(self, compiled: Any) -> None:
        self._compiled, self._idle = compiled, deque[Any]()

    @contextmanager
    def one(self) -> Iterator[Any]:
        """A request that nobody uses; it comes back when the block ends well."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        yield request
        self._idle.append(request)


def _part(graph: Any, names: list[str]) -> Any:
    """The part of a graph that gives these outputs."""
    import openvino

    results = [output.get_node() for output in graph.outputs if output.any_name in names]
    return openvino.Model(results, graph.get_parameters(), "verdict")


def _compiled(core: Any, graph: Any, options: dict[str, Any], path: Path) -> Any:
    try:
        return core.compile_model(graph, DEVICE, options)
    except Exception as e:
        raise ModelError(
            f"{path}: expected a graph that OpenVINO compiles, got {one_line(e)}; take --engine cpu"
        ) from e


def _core(engine: str) -> Any:
    cast(dict[str, Any], sys.modules).setdefault(TELEMETRY, None)  # so it is not found, and OpenVINO takes its own stub
    try:
        import openvino
    except ImportError as e:
        raise ModelError(
            f"engine {engine}: expected OpenVINO, got none ({one_line(e)}): pip install 'vtad[openvino]'"
        ) from e
    _make_tables(openvino)
    core = openvino.Core()
    if PRECISION[engine] == "bf16" and "BF16" not in core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"):
        raise ModelError(
            f"engine {engine}: expected a processor with bfloat16, got one without: take --engine openvino"
        )
    return core


def _make_tables(openvino: Any) -> None:
    """Let OpenVINO make its tables of numpy's types, in one thread.

    It makes them at the first array that it takes or gives, once for the process, and gives up Python's lock meanwhile: two
    threads at their first picture would wait for each other for ever (pybind11's documentation: GIL and static variables).
    """
    with _tables:
        for kind in (np.uint8, np.float32):
            openvino.Tensor(np.zeros(1, kind)).data.copy()


def _options(engine: str, threads: int | None, callers: int) -> dict[str, Any]:
    folder = cache_folder(engine)  # its own: taken for bfloat16, a graph in float32 ends the process
    return {
        "INFERENCE_PRECISION_HINT": PRECISION[engine],
        "INFERENCE_NUM_THREADS": min(threads or os.cpu_count() or 1, os.cpu_count() or 1),
        "NUM_STREAMS": callers,  # 1: one picture as fast as can be
        **({"CACHE_DIR": str(folder)} if folder else {}),
    }


def _port(node: Any) -> Port:
    shape = tuple(d.get_length() if d.is_static else "batch" for d in node.partial_shape)
    kind = node.element_type.get_type_name()
    return Port(node.any_name, TYPES.get(kind, kind), shape)


def _text(graph: Any, key: str) -> str | None:
    """A text of the ONNX file's metadata."""
    place = ["framework", key]
    return str(graph.get_rt_info(place).value) if graph.has_rt_info(place) else None
