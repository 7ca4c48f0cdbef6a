"""Opens an ONNX model by OpenVINO (extra `openvino`), on the CPU, in float32 or in bfloat16 where the processor has it.

Pictures run one at a time: graphs of a fixed shape are faster than those of a free one. At first only the part of the graph that
a verdict needs is compiled; the whole when somebody asks for everything. What was compiled is kept in the user's cache folder, so
that a second start does not compile anew. https://docs.openvino.ai
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.card import AGAIN, ONNX_KEY, REFERENCES_KEY
from vtad_runtime.contract.errors import one_line
from vtad_runtime.engine.callers import cores
from vtad_runtime.engine.declared import FLOAT, UINT8, Port, batch_of, card_of, names_of
from vtad_runtime.engine.engines import cache_folder
from vtad_runtime.engine.integrity import integrity, opened, whole_file
from vtad_runtime.engine.model import IN_MEMORY, SCORED, ModelError
from vtad_runtime.engine.two_entries import TwoEntries

PRECISION = {"openvino": "f32", "openvino-bf16": "bf16"}  # of computing, by the engine's name
TYPES = {"u8": UINT8, "f32": FLOAT}
DEVICE = "CPU"
TELEMETRY = "openvino_telemetry"  # a package by which importing OpenVINO tells Google Analytics of it
_tables = threading.Lock()


class OpenVinoSession(TwoEntries["_Requests"]):
    """A model that OpenVINO runs."""

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
        super().__init__()
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
        self._graph = graph

    def _open_whole(self) -> _Requests:
        requests = _Requests(self._compile(self._graph))
        self._graph = None
        return requests

    def _at_once(self, pictures: int) -> int:
        return self._batch

    def _infer(self, entry: _Requests, names: list[str], batch: NDArray[np.uint8]) -> Sequence[NDArray[np.float32]]:
        with entry.one() as request:
            request.infer([np.ascontiguousarray(batch)])
            return [np.array(request.get_tensor(name).data, np.float32) for name in names]


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
        "INFERENCE_NUM_THREADS": min(threads or cores(), cores()),
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
