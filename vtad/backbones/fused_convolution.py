"""A frozen convolution and what follows it as one kernel, for CPUs: oneDNN adds and clamps before it writes the result.

Channels lie last in memory, where oneDNN's kernels want them. The operator is the one that torch's own compiler calls; where
it is missing, and in graphs that are exported, the convolution and its neighbours are computed one by one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_KERNEL = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)  # only in a torch that is built with oneDNN


def fuses(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether `fused` can take this (B, C, H, W): in float32, or bfloat16 by autocast, on a CPU, with no gradient wanted."""
    return (
        _KERNEL is not None
        and x.device.type == "cpu"
        and _precision(x) in _precisions()
        and not torch.compiler.is_exporting()
        and not (torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad))
    )


def fused(conv: nn.Conv2d, x: Tensor, before: int, added: Tensor | None, clamped: bool) -> Tensor:
    """`conv(x) + added`, or `conv(x)` in 0..6: (B, C, H, W) -> (B, C', H / stride, W / stride), channels last in memory.

    A stride above 1 leaves out all but `before` rows and columns of the padding that goes before x, and pads behind it.
    """
    assert _KERNEL is not None
    kind, stride = _precision(x), conv.stride[0]
    x = x.to(kind).contiguous(memory_format=torch.channels_last)
    weight, bias = conv.weight.to(kind), None if conv.bias is None else conv.bias.to(kind)
    # Padding alike on both sides is what the kernel knows: a whole stride more of it gives a first row and column to drop.
    padding = conv.padding if stride == 1 else [before + stride] * 2
    how = padding, conv.stride, conv.dilation, conv.groups
    y: Tensor
    if added is None:
        y = _KERNEL(x, weight, bias, *how, *(("hardtanh", [0.0, 6.0], "") if clamped else ("none", [], "")))
    else:
        assert not clamped
        y = _KERNEL.binary(x, added.to(kind), weight, bias, *how, "add", None, None, [], None)
    return y if stride == 1 else y[:, :, 1:, 1:]


def _precision(x: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def _precisions() -> tuple[torch.dtype, ...]:
    bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return (torch.float32, torch.bfloat16) if bfloat16 else (torch.float32,)
