"""Engines that the rules treat alike, and the first of them that runs an operation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Generation:
    """One kind of engine; its limits are from the guide, appendix A."""

    chips: str
    max_side: int  # elements of a row or column
    max_kernel_width: int  # of a float16 convolution
    max_kernel_height: int
    crops_in_fixed_point: bool  # a slice that starts within a row goes through 16 times its values: guide, chapter 19
    flushes: bool  # subnormal numbers are 0 in sums of products: guide, chapter 3, of the M1; not on the M5; between not known


GENERATIONS = (
    Generation("A12/A13", 16384, 13, 29, crops_in_fixed_point=False, flushes=True),  # not known
    Generation("A14/M1", 16384, 13, 29, crops_in_fixed_point=True, flushes=True),
    Generation("A15/M2", 16384, 16, 32, crops_in_fixed_point=True, flushes=True),
    Generation("A16/M3", 16384, 16, 32, crops_in_fixed_point=False, flushes=True),
    Generation("A17 Pro/M4 and later", 65536, 16, 32, crops_in_fixed_point=False, flushes=False),
)
A12, A14, A15, A16 = 0, 1, 2, 3
REFERENCE = A14  # what one number speaks of where there is room for one only
MAX_CHANNELS = 65536  # on all of them
# Operations that sum up products.
PRODUCTS = frozenset(("conv", "conv_transpose", "einsum", "linear", "matmul", "scaled_dot_product_attention"))
PRODUCT_LIMIT = 32752.0  # the largest that such a sum is on the M1, half of what float16 holds: guide, chapter 3
SMALLEST_NORMAL = 2.0**-14  # of float16; what is smaller and not 0 is subnormal

# After the guide, chapter 35 (families) and appendix A (operations).
_FIRST = {
    A12: "abs add avg_pool cast clip concat conv conv_transpose einsum exp gelu identity linear log matmul max_pool "
    "maximum minimum mul pad relu relu6 sigmoid slice_by_index softplus split square sub tanh transpose",
    # Before that there is no reshape but a flatten, no division by a tensor, no reduction, no shuffle of pixels.
    A14: "batch_norm erf expand_dims instance_norm layer_norm pixel_shuffle pixel_unshuffle real_div "
    "reduce_log_sum_exp reduce_max reduce_mean reduce_min reduce_sum reshape rsqrt scaled_dot_product_attention softmax "
    "sqrt squeeze",
    # The sampling hardware: until then resizing, gathering and sorting are done in software.
    A15: "gather gather_along_axis resize_bilinear resize_nearest_neighbor topk upsample_bilinear "
    "upsample_nearest_neighbor",
    A16: "dequantize quantize",
}
FIRST_GENERATION = {kind: first for first, kinds in _FIRST.items() for kind in kinds.split()}
