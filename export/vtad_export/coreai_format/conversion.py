"""A detector as an .aimodel: exported by torch, converted by coreai-torch, saved with its card, and its structure checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from vtad.models.detector import Detector, Judgement
from vtad.run_folder import not_written
from vtad.version import VERSION
from vtad_export.coreai_format.rounded import Rounded
from vtad_export.proof.descriptions import AUTHOR, LICENCE, model_text
from vtad_export.proof.errors import ParityError
from vtad_export.proof.quiet import quiet, silent
from vtad_runtime.contract.card import ONNX_KEY, Card
from vtad_runtime.contract.errors import one_line

KEPT = 0.95  # of the float16 weights: the converter folds a few of them into others


def program_of(module: Detector | Rounded) -> ExportedProgram:
    """The exported program with the operations that coreai-torch knows; input uint8 (1, 3, H, W)."""
    from coreai_torch import get_decomp_table

    height, width = module.size
    table = get_decomp_table()
    table[torch.ops.aten.avg_pool2d.default] = _pool_without_padding
    with quiet(), torch.no_grad():
        program = torch.export.export(module, (torch.zeros(1, 3, height, width, dtype=torch.uint8),))
        decomposed: ExportedProgram = program.run_decompositions(table)
    return decomposed


def _pool_without_padding(
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


def save_asset(program: ExportedProgram, card: Card, path: Path) -> None:
    """Convert and write. Raises ParityError where coreai-torch cannot."""
    from coreai.runtime import AIModelAssetMetadata
    from coreai_torch import TorchConverter

    about = AIModelAssetMetadata()
    about.author, about.license, about.model_description = AUTHOR, LICENCE, model_text(card)
    about.set_custom(ONNX_KEY, card.to_json())
    try:
        with quiet(), silent():
            converter = TorchConverter(mode=TorchConverter.Mode.RELEASE).add_exported_program(
                program, input_names=["image"], output_names=list(Judgement._fields)
            )
            converter.to_coreai().save_asset(path, metadata=about)
    except Exception as e:  # the converter's errors share no base class
        if isinstance(e.__cause__, OSError):
            raise not_written(path, e.__cause__) from e
        raise ParityError(f"the coreai artefact cannot be made: {one_line(e)}; nothing was kept") from e
    _change(path, _sign)


def write_card(path: Path, card: Card) -> None:
    """Replace the card in a saved asset."""
    _change(path, lambda about: about.set_custom(ONNX_KEY, card.to_json()))


def _sign(about: Any) -> None:
    about._producer = f"{AUTHOR} {VERSION}"  # coreai-core writes its own name when it saves


def _change(path: Path, metadata: Callable[[Any], None]) -> None:
    from coreai.authoring import AIModelAsset

    AIModelAsset.load(path).update_metadata(metadata)


def operations(path: Path) -> int:
    """Operations of a saved program, constants aside."""
    return sum(n for kind, n in summary(path).operation_distribution if kind != "constant")


def summary(path: Path) -> Any:
    """What Apple's package says of a saved asset."""
    from coreai.authoring import AIModelAsset

    with silent():
        return AIModelAsset.load(path).summary()


def check_structure(path: Path, half: Rounded) -> None:
    """Raise ParityError unless a float16 asset stores its weights in float16."""
    stored = dict(summary(path).storage_types).get("Float16", 0)
    if stored < KEPT * half.stored:
        raise ParityError(
            f"the coreai artefact is not the program asked for: {stored} weights in float16 instead of about {half.stored}; "
            "nothing was kept"
        )
