"""Core AI: an .aimodel with the card inside, executed by Apple's runtime on this machine before it is kept.

Beta: coreai-torch and coreai-core are pinned as a pair (extra `coreai`), and nothing else in this repository imports them. An
.aimodel is a folder: main.mlirb (program and weights), main.hash (its sha256, which Apple's loader does not compare: we do) and
metadata.json (the card as one string). Float32 is executed; float16 is checked for structure only, for off Apple's chips the
runtime does not round as they do.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from vtad.models.detector import Detector, Judgement
from vtad.run_folder import Run, RunError, make_folder, not_written, write_text
from vtad_export.commands.formats import for_one_picture
from vtad_export.coreml_format.apple import quiet
from vtad_export.coreml_format.exporter import replacing_folder
from vtad_export.coreml_format.graph import FLOAT16, prepared, trace
from vtad_export.coreml_format.reference_proof import DRIFT
from vtad_export.onnx_format.exporter import Export, twin_during
from vtad_export.proof.parity import (
    TOLERANCE,
    Flip,
    Limits,
    Material,
    ParityError,
    Pixels,
    TwinComparison,
    Values,
    accept,
    allowed_flips,
    check_pixels,
    compare,
    load_material,
)
from vtad_runtime.contract.card import ONNX_KEY, Card, CardError

Precision = Literal["fp32", "fp16"]
VERSIONS = {"coreai-torch": "0.4.3", "coreai-core": "1.0.0b3"}
EXECUTED = "executed by Apple's Core AI runtime on this machine"
STRUCTURE = "structure only, not executed: signature, precision of the weights; its arithmetic in torch's float16"
IMAGES = 8  # of each kind: Apple's runtime takes seconds a picture here
KEPT = 0.95  # of the float16 weights: the converter folds a few of them into others
PROGRAM, HASH, METADATA = "main.mlirb", "main.hash", "metadata.json"


@dataclasses.dataclass(frozen=True)
class CoreAIExport(Export):
    """An asset on disk, and what was shown of it."""

    method: str
    twin: Path
    against_twin: TwinComparison | None  # float32: all three were compared
    flipped: tuple[Flip, ...]
    note: str | None  # set when the images are not those of the training


def to_coreai(
    run: Run,
    path: Path | str | None = None,
    *,
    data: Path | str | None = None,
    precision: Precision = "fp32",
    tolerance: dict[str, float] | None = None,
    max_flips: int | None = None,
    material: Material | None = None,
) -> CoreAIExport:
    """Export a complete run, by default to its export/<category>.aimodel, with parity-coreai.json beside it.

    The ONNX twin is made beside it unless one of the same weights is there. Arguments as of `to_onnx`. Raises RunError (the
    packages are absent or of another version), CardError, DataError, WriteError, or ParityError when the asset does not
    agree with torch; nothing is left then.
    """
    _require()
    material = material or load_material(run, data)
    card, detector = for_one_picture(material.card), material.detector
    suffix = "" if precision == "fp32" else f"-{precision}"
    path = Path(path) if path else run.path / "export" / f"{card.identity.category}{suffix}.aimodel"
    if path.suffix != ".aimodel":
        raise RunError(f"{path}: expected a name that ends in .aimodel, for Core AI takes no other")
    make_folder(path.parent)
    beside_it = path.with_name(f"{card.identity.category}.onnx")
    few = material.sample.first(IMAGES)
    limits = Limits(
        (TOLERANCE if precision == "fp32" else DRIFT) | (tolerance or {}),
        allowed_flips(precision, max_flips, len(few.good) + len(few.defective)),
    )
    with twin_during(beside_it, material) as twin, replacing_folder(path) as beside:
        sample = dataclasses.replace(few, twin=twin)
        check_pixels(sample, card.input)
        if precision == "fp32":
            _save(_program(detector), card, beside)
            verify(beside)
            with Runtime(beside) as execute:
                found = compare(detector, execute, sample, card.calibration, limits)
            method = EXECUTED
        else:
            half = Rounded(detector)
            _save(_program(half), card, beside)
            verify(beside)
            _check_structure(beside, half)
            found = compare(detector, half.execute, sample, card.calibration, limits)
            method = STRUCTURE
        parity = accept(found, sample, format="coreai", precision=precision, tolerance=limits)
        card = dataclasses.replace(card, parity=parity)
        _write_card(beside, card)
        if read_asset_card(beside) != card:
            raise ParityError("the coreai artefact: the card does not come back as it was written; nothing was kept")
        operations = _operations(beside)
        report = {
            "method": method,
            "packages": VERSIONS,
            **dataclasses.asdict(parity),
            "flipped": [dataclasses.asdict(f) for f in found.flipped],
            "twin": dataclasses.asdict(found.twin) if found.twin else None,
        }
        write_text(path.with_name(f"parity-coreai{suffix}.json"), json.dumps(report, indent=2) + "\n")
    twin.path.touch()  # vtad-run takes the newest export: this one, of which it runs the twin
    return CoreAIExport(path, card, operations, method, twin.path, found.twin, found.flipped, material.sample.note)


def read_asset_card(path: Path) -> Card:
    """The card of an .aimodel whose program is what was saved; needs no package of Apple's. Raises CardError."""
    verify(path)
    try:
        found = json.loads((path / METADATA).read_text(encoding="utf-8"))
        text = next(v[ONNX_KEY] for v in found.values() if isinstance(v, dict) and ONNX_KEY in v)
    except (OSError, ValueError, AttributeError) as e:
        raise CardError(f"{path}: expected an .aimodel with readable metadata, got {e}") from e
    except StopIteration as e:
        raise CardError(f"{path}: expected an .aimodel of vtad-export with its inspection card, got one without") from e
    if not isinstance(text, str):
        raise CardError(f"{path}: expected the inspection card as one string, got {type(text).__name__}")
    return Card.from_json(text, str(path))


def verify(path: Path) -> None:
    """Raise CardError where main.hash is not the sha256 of the program: Apple's loader does not look."""
    try:
        program, stored = (path / PROGRAM).read_bytes(), (path / HASH).read_bytes()
    except OSError as e:
        raise CardError(f"{path}: expected an .aimodel (a folder with {PROGRAM} and {HASH}), got {e.strerror}") from e
    if hashlib.sha256(program).digest() != stored:
        raise CardError(f"{path}: {PROGRAM} is not the program that {HASH} was written for: copy or export it again")


class Runtime:
    """An .aimodel opened by Apple's runtime, one picture at a time. For use in a `with` block."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Runtime:
        """Load. Raises ParityError where the asset does not load or has another signature."""
        from coreai.authoring import AIModelAsset

        self._thread = ThreadPoolExecutor(1)  # a loop of its own, for the caller may have one running
        self._loop = asyncio.new_event_loop()
        self._asset = AIModelAsset.load(self._path).executable()
        try:
            with _silent():
                self._function = self._wait(self._asset.__aenter__()).load_function("main")
        except Exception as e:  # the runtime's errors share no base class
            self._close()
            raise ParityError(f"the coreai artefact does not load: {_line(e)}; nothing was kept") from e
        names = set(self._function.desc.output_names)
        if names != set(Judgement._fields) or list(self._function.desc.input_names) != ["image"]:
            self.__exit__()
            raise ParityError(f"the coreai artefact: expected outputs {Judgement._fields}, got {sorted(names)}")
        return self

    def __exit__(self, *_: object) -> None:
        del self._function
        self._wait(self._asset.__aexit__(None, None, None))
        self._close()

    def __call__(self, pixels: Pixels) -> Values:
        """(B, 3, H, W) uint8 -> outputs by name. Raises ParityError."""
        try:
            runs = [self._wait(self._run(image[None])) for image in pixels]
        except Exception as e:  # the runtime's errors share no base class
            raise ParityError(f"the coreai artefact does not run: {_line(e)}; nothing was kept") from e
        return {name: np.concatenate([r[name] for r in runs]) for name in Judgement._fields}

    async def _run(self, image: Pixels) -> Values:
        from coreai.runtime import NDArray

        outputs = await self._function(inputs={"image": NDArray(np.ascontiguousarray(image))})
        return {name: np.array(outputs[name].numpy()) for name in Judgement._fields}

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._thread.submit(self._loop.run_until_complete, work).result()

    def _close(self) -> None:
        self._loop.close()
        self._thread.shutdown()


class Rounded(nn.Module):
    """The detector in float16 where `graph.trace` says so; weights that only such operations use are stored in float16."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.size = detector.size
        self.graph_module = trace(prepared(detector)).module(check_guards=False)
        self.stored = 0  # float16 elements
        for node in list(self.graph_module.graph.nodes):
            if node.target is torch.ops.aten._assert_tensor_metadata.default:  # of the precision that it no longer has
                self.graph_module.graph.erase_node(node)
        for node in self.graph_module.graph.nodes:
            if node.op == "get_attr" and node.users and all(_half(user) for user in node.users):
                self._round(str(node.target))

    def _round(self, name: str) -> None:
        parent, _, last = name.rpartition(".")
        owner = self.graph_module.get_submodule(parent)
        tensor = getattr(owner, last)
        if tensor.dtype is not torch.float32:
            return
        half = tensor.detach().half()
        setattr(owner, last, nn.Parameter(half, requires_grad=False) if isinstance(tensor, nn.Parameter) else half)
        self.stored += half.numel()

    def forward(self, image: Tensor) -> Judgement:
        """Uint8 RGB (1, 3, H, W)."""
        outputs = _Casting(self.graph_module).run(image.float())
        return Judgement(*(v.float() for v in outputs))

    def execute(self, pixels: Pixels) -> Values:
        """(B, 3, H, W) uint8 -> outputs by name, in torch."""
        with torch.inference_mode():
            runs = [self(torch.from_numpy(np.ascontiguousarray(image[None])))._asdict() for image in pixels]
        return {name: np.concatenate([r[name].numpy() for r in runs]) for name in Judgement._fields}


class _Casting(torch.fx.Interpreter):
    """Runs every node in its precision, casting what it takes."""

    def run_node(self, n: torch.fx.Node) -> Any:
        self._dtype = torch.float16 if _half(n) else torch.float32
        return super().run_node(n)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        cast = torch.utils._pytree.tree_map_only(Tensor, self._cast, (args, kwargs))
        return super().call_function(target, *cast)

    def _cast(self, value: Tensor) -> Tensor:
        return value.to(self._dtype) if value.is_floating_point() else value


def _half(node: torch.fx.Node) -> bool:
    return node.op == "call_function" and node.meta.get("stack_trace") == FLOAT16


def _program(module: Detector | Rounded) -> ExportedProgram:
    """The exported program with the operations that coreai-torch knows; input uint8 (1, 3, H, W)."""
    from coreai_torch import get_decomp_table

    height, width = module.size
    table = get_decomp_table()
    table[torch.ops.aten.avg_pool2d.default] = _counted_pool
    with quiet(), torch.no_grad():
        program = torch.export.export(module, (torch.zeros(1, 3, height, width, dtype=torch.uint8),))
        decomposed: ExportedProgram = program.run_decompositions(table)
    return decomposed


def _counted_pool(
    x: Tensor,
    kernel: list[int],
    stride: list[int] | None = None,
    padding: int | list[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Average pooling that leaves the padding out, as a quotient of two that count it.

    coreai-torch 0.4.3 drops `count_include_pad=False` without a word: the border then comes out too small.
    """
    padded = any(padding) if isinstance(padding, list) else bool(padding)
    if count_include_pad or not padded or divisor_override is not None:
        kept: Any = NotImplemented  # torch's way to say that the operation stays
        return kept  # type: ignore[no-any-return]
    pool = torch.ops.aten.avg_pool2d.default
    rest = (kernel, stride or [], padding, ceil_mode, True)
    pooled: Tensor = pool(x, *rest) / pool(torch.ones_like(x[:1, :1]), *rest)
    return pooled


def _save(program: ExportedProgram, card: Card, path: Path) -> None:
    """Convert and write. Raises ParityError where coreai-torch cannot."""
    from coreai.runtime import AIModelAssetMetadata
    from coreai_torch import TorchConverter

    about = AIModelAssetMetadata()
    about.author, about.license = "vtad", "Apache-2.0"
    about.model_description = (
        f"Visual anomaly detection of {card.identity.category}: score, heatmap and reconstruction. "
        f"The inspection card is in the metadata under {ONNX_KEY}."
    )
    about.set_custom(ONNX_KEY, card.to_json())
    try:
        with quiet(), _silent():
            converter = TorchConverter().add_exported_program(
                program, input_names=["image"], output_names=list(Judgement._fields)
            )
            converter.to_coreai().save_asset(path, metadata=about)
    except Exception as e:  # the converter's errors share no base class
        if isinstance(e.__cause__, OSError):
            raise not_written(path, e.__cause__) from e
        raise ParityError(f"the coreai artefact cannot be made: {_line(e)}; nothing was kept") from e


def _write_card(path: Path, card: Card) -> None:
    from coreai.authoring import AIModelAsset

    AIModelAsset.load(path).update_metadata(lambda about: about.set_custom(ONNX_KEY, card.to_json()))


def _operations(path: Path) -> int:
    """Operations of a saved program, constants aside."""
    return sum(n for kind, n in _summary(path).operation_distribution if kind != "constant")


def _summary(path: Path) -> Any:
    from coreai.authoring import AIModelAsset

    with _silent():
        return AIModelAsset.load(path).summary()


def _check_structure(path: Path, half: Rounded) -> None:
    """Raise ParityError unless a float16 asset has the signature asked for and stores its weights in float16."""
    summary = _summary(path)
    inputs, outputs = dict(summary.function_inputs("main")), dict(summary.function_outputs("main"))
    stored = dict(summary.storage_types).get("Float16", 0)
    wrong = []
    if list(inputs) != ["image"] or "UInt8" not in inputs["image"]:
        wrong.append(f"inputs {inputs}")
    if set(outputs) != set(Judgement._fields) or any("Float32" not in kind for kind in outputs.values()):
        wrong.append(f"outputs {outputs}")
    if stored < KEPT * half.stored:
        wrong.append(f"{stored} weights in float16 instead of about {half.stored}")
    if wrong:
        raise ParityError(f"the coreai artefact is not the program asked for: {'; '.join(wrong)}; nothing was kept")


def _require() -> None:
    """Raise RunError unless the pinned pair is installed."""
    found = {}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            raise RunError(f"Core AI assets need {name}, which is not installed: pip install 'vtad[coreai]'") from None
    try:
        with quiet(), _silent():
            for name in ("coreai.authoring", "coreai_torch"):
                import_module(name)
    except (ImportError, OSError) as e:
        raise RunError(
            f"Core AI assets need coreai-torch, which cannot be imported ({_line(e)}): pip install 'vtad[coreai]'"
        ) from e
    if found != VERSIONS:
        raise RunError(f"Core AI is in beta: expected {VERSIONS}, got {found}: pip install 'vtad[coreai]'")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Nothing on stdout and stderr, not even what Apple's runtime writes past Python."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        for number, handle in enumerate(kept, start=1):
            os.dup2(handle, number)
            os.close(handle)
        os.close(nowhere)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
