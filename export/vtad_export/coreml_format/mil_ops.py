"""What each operation of the Model Intermediate Language does, in numpy, after coremltools' documentation of MIL.

Every function takes the operation's inputs by their MIL names, in float32 where they are floating, and gives its outputs.
Convolutions, matrix products, pooling and erf come from torch. An input that a function does not name is an error of the
executor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

Array = NDArray[Any]
Implementation = Callable[..., Array | tuple[Array, ...]]


class Unsupported(ValueError):
    """An input of a known operation whose meaning is not implemented."""


def _ints(values: Array) -> list[int]:
    return [int(v) for v in np.atleast_1d(values)]


def _torch(x: Array) -> torch.Tensor:
    return torch.from_numpy(np.require(x, requirements=("C", "W")))  # a copy only where torch needs one


def _clip(x: Array, alpha: Array, beta: Array) -> Array:
    return np.asarray(np.clip(x, alpha, beta))


def _margins(pad_type: str, pad: Array) -> Sequence[int]:
    """Pixels added (convolution) or cut off (transposed convolution): top, bottom, left, right."""
    if pad_type not in ("valid", "custom"):
        raise Unsupported(f"pad_type {pad_type}")
    return _ints(pad) if pad_type == "custom" else (0, 0, 0, 0)


def _conv(
    x: Array,
    weight: Array,
    strides: Array,
    pad_type: str,
    pad: Array,
    dilations: Array,
    groups: Array,
    bias: Array | None = None,
) -> Array:
    top, bottom, left, right = _margins(pad_type, pad)
    padded = F.pad(_torch(x), (left, right, top, bottom))
    given = None if bias is None else _torch(bias)
    out = F.conv2d(padded, _torch(weight), given, _ints(strides), 0, _ints(dilations), int(groups))
    return out.numpy()


def _conv_transpose(
    x: Array,
    weight: Array,
    strides: Array,
    pad_type: str,
    pad: Array,
    dilations: Array,
    groups: Array,
    output_shape: Array | None = None,
    bias: Array | None = None,
) -> Array:
    top, bottom, left, right = _margins(pad_type, pad)
    given = None if bias is None else _torch(bias)
    full = F.conv_transpose2d(
        _torch(x), _torch(weight), given, _ints(strides), 0, 0, int(groups), _ints(dilations)
    ).numpy()
    height, width = full.shape[2] - top - bottom, full.shape[3] - left - right
    if output_shape is not None and _ints(output_shape)[-2:] != [height, width]:
        raise Unsupported(f"output_shape {_ints(output_shape)}")
    return full[:, :, top : top + height, left : left + width]


def _avg_pool(
    x: Array,
    kernel_sizes: Array,
    strides: Array,
    pad_type: str,
    pad: Array,
    exclude_padding_from_average: Array,
    ceil_mode: Array,
) -> Array:
    top, bottom, left, right = _ints(pad) if pad_type == "custom" else (0, 0, 0, 0)
    if pad_type not in ("valid", "custom") or (top, left) != (bottom, right) or bool(ceil_mode):
        raise Unsupported(f"pad_type {pad_type}, pad {_ints(pad)}, ceil_mode {bool(ceil_mode)}")
    count = not bool(exclude_padding_from_average)
    return F.avg_pool2d(_torch(x), _ints(kernel_sizes), _ints(strides), (top, left), count_include_pad=count).numpy()


def _linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    return F.linear(_torch(x), _torch(weight), None if bias is None else _torch(bias)).numpy()


def _matmul(x: Array, y: Array, transpose_x: Array | bool = False, transpose_y: Array | bool = False) -> Array:
    x = np.swapaxes(x, -1, -2) if bool(transpose_x) else x
    y = np.swapaxes(y, -1, -2) if bool(transpose_y) else y
    return (_torch(x) @ _torch(y)).numpy()


def _einsum(values: Sequence[Array], equation: str) -> Array:
    letters = dict.fromkeys(c for c in equation if c.isalpha())
    if equation.translate(str.maketrans("".join(letters), "nchwu"[: len(letters)])) != "nchw,nwhu->nchu":
        raise Unsupported(f"equation {equation}")  # with these letters or others, the only one of MIL for four axes
    x, y = (_torch(v) for v in values)  # (N, C, H, W) and (N, W, H, U)
    return (x.permute(0, 2, 1, 3) @ y.permute(0, 2, 1, 3)).permute(0, 2, 1, 3).numpy()


def _softmax(x: Array, axis: Array) -> Array:
    e = np.exp(x - x.max(axis=int(axis), keepdims=True))
    out: Array = e / e.sum(axis=int(axis), keepdims=True)
    return out


def _scaled_dot_product_attention(query: Array, key: Array, value: Array, attn_mask: Array | None = None) -> Array:
    logits = _matmul(query, key, transpose_y=True) / np.float32(math.sqrt(query.shape[-1]))
    if attn_mask is not None:
        logits = np.where(attn_mask, logits, -np.inf) if attn_mask.dtype == np.bool_ else logits + attn_mask
    return _matmul(_softmax(logits, np.array(-1)), value)


def _layer_norm(x: Array, axes: Array, epsilon: Array, gamma: Array | None = None, beta: Array | None = None) -> Array:
    over = tuple(a % x.ndim for a in _ints(axes))
    centred = x - x.mean(axis=over, keepdims=True)
    out: Array = centred / np.sqrt((centred * centred).mean(axis=over, keepdims=True) + epsilon)
    shape = [x.shape[i] if i in over else 1 for i in range(x.ndim)]
    if gamma is not None:
        out = out * gamma.reshape(shape)
    return out if beta is None else out + beta.reshape(shape)


def _batch_norm(
    x: Array, mean: Array, variance: Array, epsilon: Array, gamma: Array | None = None, beta: Array | None = None
) -> Array:
    shape = (1, -1, *[1] * (x.ndim - 2))
    out: Array = (x - mean.reshape(shape)) / np.sqrt(variance.reshape(shape) + epsilon)
    if gamma is not None:
        out = out * gamma.reshape(shape)
    return out if beta is None else out + beta.reshape(shape)


def _gelu(x: Array, mode: str) -> Array:
    if mode == "EXACT":
        return np.asarray(0.5 * x * (1 + torch.erf(_torch(x) / math.sqrt(2)).numpy()))
    if mode == "TANH_APPROXIMATION":
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    raise Unsupported(f"mode {mode}")


def _sigmoid(x: Array) -> Array:
    return np.asarray(np.exp(-np.logaddexp(np.float32(0), -x)))


def _pixel_unshuffle(x: Array, downscale_factor: Array) -> Array:
    b, c, h, w = x.shape
    r = int(downscale_factor)
    x = x.reshape(b, c, h // r, r, w // r, r).transpose(0, 1, 3, 5, 2, 4)
    return x.reshape(b, c * r * r, h // r, w // r)


def _pixel_shuffle(x: Array, upscale_factor: Array) -> Array:
    b, c, h, w = x.shape
    r = int(upscale_factor)
    x = x.reshape(b, c // (r * r), r, r, h, w).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(b, c // (r * r), h * r, w * r)


def _reshape(x: Array, shape: Array) -> Array:
    target = [x.shape[i] if s == 0 else s for i, s in enumerate(_ints(shape))]  # 0 keeps an axis
    return x.reshape(target)


def _concat(values: Sequence[Array], axis: Array, interleave: Array | bool = False) -> Array:
    if bool(interleave):
        raise Unsupported("interleave")
    return np.concatenate(values, axis=int(axis))


def _split(
    x: Array, axis: Array, num_splits: Array | None = None, split_sizes: Array | None = None
) -> tuple[Array, ...]:
    if split_sizes is None:
        assert num_splits is not None
        return tuple(np.split(x, int(num_splits), axis=int(axis)))
    return tuple(np.split(x, np.cumsum(_ints(split_sizes))[:-1], axis=int(axis)))


def _slice_by_index(
    x: Array,
    begin: Array,
    end: Array,
    stride: Array | None = None,
    begin_mask: Array | None = None,
    end_mask: Array | None = None,
    squeeze_mask: Array | None = None,
) -> Array:
    def mask(m: Array | None) -> list[bool]:
        return [False] * x.ndim if m is None else [bool(v) for v in m]

    steps = [1] * x.ndim if stride is None else _ints(stride)
    rows = zip(_ints(begin), _ints(end), steps, mask(begin_mask), mask(end_mask), mask(squeeze_mask), strict=True)
    index = tuple(
        b if squeezed else slice(None if from_start else b, None if to_end else e, s)
        for b, e, s, from_start, to_end, squeezed in rows
    )
    out: Array = x[index]
    return out


def _pad(x: Array, pad: Array, mode: str = "constant", constant_val: Array | float = 0.0) -> Array:
    amounts = np.reshape(pad, (-1, 2)).astype(int)
    widths = [(0, 0)] * (x.ndim - len(amounts)) + [(int(a), int(b)) for a, b in amounts]
    if mode == "constant":
        return np.pad(x, widths, constant_values=np.asarray(constant_val).astype(x.dtype).item())
    if mode == "reflect":
        return np.pad(x, widths, mode="reflect")
    raise Unsupported(f"mode {mode}")


def _upsample_nearest(x: Array, scale_factor_height: Array, scale_factor_width: Array) -> Array:
    high, wide = float(scale_factor_height), float(scale_factor_width)
    if high != int(high) or wide != int(wide):
        raise Unsupported(f"scale factors {high}, {wide}")
    return x.repeat(int(high), axis=2).repeat(int(wide), axis=3)


def _topk(
    x: Array,
    k: Array,
    axis: Array,
    ascending: Array | bool = False,
    sort: Array | bool = True,
    return_indices: Array | bool = True,
    output_indices_dtype: str = "int32",
) -> tuple[Array, ...]:
    order = np.argsort(x if bool(ascending) else -x, axis=int(axis), kind="stable")
    indices = np.take(order, np.arange(int(k)), axis=int(axis))
    values = np.take_along_axis(x, indices, axis=int(axis))
    return (values, indices) if bool(return_indices) else (values,)


def _log_sum_exp(x: Array, axes: Array, keep_dims: Array) -> Array:
    over, keep = tuple(_ints(axes)), bool(keep_dims)
    top = x.max(axis=over, keepdims=True)
    out = np.log(np.exp(x - top).sum(axis=over, keepdims=True)) + top
    return np.asarray(out if keep else out.squeeze(axis=over))


def _reduce(function: Callable[..., Any]) -> Implementation:
    def implementation(x: Array, axes: Array | None = None, keep_dims: Array | bool = False) -> Array:
        over = None if axes is None else tuple(_ints(axes))
        return np.asarray(function(x, axis=over, keepdims=bool(keep_dims)))

    return implementation


def _unary(function: Callable[[Any], Any]) -> Implementation:
    def implementation(x: Array) -> Array:
        return np.asarray(function(x))

    return implementation


def _binary(function: Callable[[Any, Any], Any]) -> Implementation:
    def implementation(x: Array, y: Array) -> Array:
        return np.asarray(function(x, y))

    return implementation


def _cast(x: Array, dtype: str) -> Array:
    return x.astype({"fp16": np.float32, "fp32": np.float32}.get(dtype, dtype))  # rounded as declared, afterwards


OPERATIONS: dict[str, Implementation] = {
    "abs": _unary(np.abs),
    "add": _binary(np.add),
    "avg_pool": _avg_pool,
    "batch_norm": _batch_norm,
    "cast": _cast,
    "clip": _clip,
    "concat": _concat,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "einsum": _einsum,
    "exp": _unary(np.exp),
    "expand_dims": lambda x, axes: np.expand_dims(x, tuple(_ints(axes))),
    "gelu": _gelu,
    "identity": _unary(lambda x: x),
    "layer_norm": _layer_norm,
    "linear": _linear,
    "log": lambda x, epsilon=0.0: np.log(x + epsilon),
    "matmul": _matmul,
    "maximum": _binary(np.maximum),
    "minimum": _binary(np.minimum),
    "mul": _binary(np.multiply),
    "pad": _pad,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "real_div": _binary(np.divide),
    "reduce_log_sum_exp": _log_sum_exp,
    "reduce_max": _reduce(np.max),
    "reduce_mean": _reduce(np.mean),
    "reduce_min": _reduce(np.min),
    "reduce_sum": _reduce(np.sum),
    "relu": _unary(lambda x: np.maximum(x, 0)),
    "relu6": _unary(lambda x: np.clip(x, 0, 6)),
    "reshape": _reshape,
    "rsqrt": lambda x, epsilon=0.0: 1 / np.sqrt(x + epsilon),
    "scaled_dot_product_attention": _scaled_dot_product_attention,
    "sigmoid": _sigmoid,
    "slice_by_index": _slice_by_index,
    "softmax": _softmax,
    "softplus": _unary(lambda x: np.logaddexp(x, np.float32(0))),
    "split": _split,
    "sqrt": _unary(np.sqrt),
    "square": _unary(np.square),
    "squeeze": lambda x, axes=None: np.squeeze(x, None if axes is None else tuple(_ints(axes))),
    "sub": _binary(np.subtract),
    "tanh": _unary(np.tanh),
    "topk": _topk,
    "transpose": lambda x, perm: np.transpose(x, _ints(perm)),
    "upsample_nearest_neighbor": _upsample_nearest,
}
