"""The detector in float16, as the asset stores it, executed in torch.

Off Apple's chips, Apple's runtime does not round as they do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vtad.models.detector import Detector, Judgement
from vtad_export.coreml_format.graph import FLOAT16, prepared, trace
from vtad_export.proof.material import Pixels, Values


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
            if node.op == "get_attr" and node.users and all(takes_float16(user) for user in node.users):
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
        self._dtype = torch.float16 if takes_float16(n) else torch.float32
        return super().run_node(n)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        cast = torch.utils._pytree.tree_map_only(Tensor, self._cast, (args, kwargs))
        return super().call_function(target, *cast)

    def _cast(self, value: Tensor) -> Tensor:
        return value.to(self._dtype) if value.is_floating_point() else value


def takes_float16(node: torch.fx.Node) -> bool:
    """Whether an operation is marked so by `graph.trace`."""
    return node.op == "call_function" and node.meta.get("stack_trace") == FLOAT16
