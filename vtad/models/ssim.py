"""Structural similarity (Wang et al., IEEE TIP 2004): Gaussian window 11, sigma 1.5, data range 1, separable.

The window is applied by matrix products: on a CPU they are faster than convolutions, in torch and in onnxruntime. Where it is
learnt by on a CPU, OpenCV applies it, which is faster still. Float32 always: the variances are differences of nearly equal
numbers.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

WINDOW = 11
SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2
BLOCK = 16  # rows of a blurred image that one product gives


def mirrored(places: Tensor, size: int) -> Tensor:
    """The places 0..size - 1 that lie at any integer places of a signal mirrored at both ends (no repeat)."""
    if size == 1:
        return torch.zeros_like(places)
    period = 2 * (size - 1)
    places = places.abs() % period
    return torch.where(places < size, places, period - places)


def gaussian_matrix(size: int, sigma: float, window: int) -> Tensor:
    """(size, size) matrix whose product with a signal blurs it: rows sum to 1, reflection at the border (no repeat)."""
    radius = window // 2
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    kernel = kernel / kernel.sum()
    rows = torch.arange(size)[:, None].expand(size, window)
    columns = mirrored(rows + offsets, size)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix.index_put_((rows, columns), kernel.expand(size, window), accumulate=True)
    return matrix.float()


class Blur(nn.Module):
    """Gaussian blur of images of one fixed size, reflection at the border: products with `gaussian_matrix` without its zeros.

    All blocks of BLOCK rows are weighted sums, by one small matrix, of the rows that they reach. Gathering those costs less
    than multiplying by zeros, and less in a graph than a slice and a product for each block.
    """

    block: Tensor  # (BLOCK, reach)
    rows: Tensor  # (blocks x reach,) of the image, mirrored at its border
    columns: Tensor

    def __init__(self, height: int, width: int, sigma: float, window: int) -> None:
        super().__init__()
        self.radius = window // 2
        self.reach = BLOCK + 2 * self.radius
        block = gaussian_matrix(self.reach, sigma, window)[self.radius : self.radius + BLOCK]
        self.register_buffer("block", block.clone(), persistent=False)
        for name, size in (("rows", height), ("columns", width)):
            places = torch.arange(0, size, BLOCK)[:, None] + torch.arange(-self.radius, BLOCK + self.radius)
            self.register_buffer(name, mirrored(places, size).flatten(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., H, W) -> (..., H, W)."""
        x = self._down(x, self.rows).mT.contiguous()  # rows of a transposed view are slow to gather
        return self._down(x, self.columns).mT

    def _down(self, x: Tensor, rows: Tensor) -> Tensor:
        *front, height, width = x.shape
        reached = x.index_select(-2, rows).reshape(*front, -1, self.reach, width)  # (..., blocks, reach, W)
        blurred = (self.block @ reached).flatten(-3, -2)
        return blurred[..., :height, :]  # the last block may reach beyond


class SSIM(nn.Module):
    """Local structural similarity of two images of one fixed size."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.blur = Blur(height, width, SIGMA, WINDOW)

    def dissimilarity(self, x: Tensor, y: Tensor) -> Tensor:
        """1 - SSIM of (B, C, H, W) twice, values in 0..1 -> (B, C, H, W) in 0..2, float32.

        With d = x - y, SSIM = (1 - mean(d)^2 / (mean(x)^2 + mean(y)^2 + C1)) (1 - var(d) / (var(x) + var(y) + C2)): the
        textbook form rearranged, so that alike images do not cancel, and with four blurs instead of five.
        """
        learnt = torch.is_grad_enabled() and (x.requires_grad or y.requires_grad) and not torch.compiler.is_exporting()
        if learnt and x.device.type == "cpu" and min(x.shape[-2:]) > WINDOW // 2:  # mirrored once at each border
            planes = zip(x.float().flatten(0, 1), y.float().flatten(0, 1), strict=True)  # each fits into a CPU's cache
            return torch.stack([_learnt(one, other) for one, other in planes]).reshape(x.shape)
        x, y = x.float() - 0.5, y.float() - 0.5  # smaller numbers to cancel in the variances
        d = x - y
        mean_x, mean_d = self.blur(x), self.blur(d)
        mean_y = mean_x - mean_d
        variances = self.blur(x * x + y * y) - (mean_x * mean_x + mean_y * mean_y)
        variance_d = self.blur(d * d) - mean_d * mean_d
        luminance = mean_d * mean_d / ((mean_x + 0.5).square() + (mean_y + 0.5).square() + C1)
        structure = variance_d / (variances + C2)
        dissimilarity: Tensor = luminance + structure - luminance * structure
        return dissimilarity

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, C, H, W) twice, values in 0..1 -> similarity (B, C, H, W) in -1..1, float32."""
        return 1 - self.dissimilarity(x, y)


def _learnt(x: Tensor, y: Tensor) -> Tensor:
    dissimilarity: Tensor = _Dissimilarity.apply(x, y)  # type: ignore[no-untyped-call]
    return dissimilarity


class _Dissimilarity(torch.autograd.Function):
    """`SSIM.dissimilarity` of images (H, W) on a CPU with its gradient written out, which takes a third of autograd's time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        x, y = x - 0.5, y - 0.5
        d = x - y
        mean_x, mean_d = _blurred(x), _blurred(d)
        mean_y = mean_x - mean_d
        variances = (_blurred(torch.addcmul(x * x, y, y)) - mean_x * mean_x).addcmul_(mean_y, mean_y, value=-1).add_(C2)
        variance_d = _blurred(d * d).addcmul_(mean_d, mean_d, value=-1)
        means = ((mean_x + 0.5).square_() + (mean_y + 0.5).square_()).add_(C1)
        luminance, structure = (mean_d * mean_d).div_(means), variance_d.div_(variances)
        ctx.save_for_backward(x, d, mean_x, mean_d, means, variances, luminance, structure)
        dissimilarity: Tensor = (luminance + structure).addcmul_(luminance, structure, value=-1)
        return dissimilarity

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """By the names of `SSIM.dissimilarity`; `to_x` is the derivative by x, and so on."""
        x, d, mean_x, mean_d, means, variances, luminance, structure = ctx.saved_tensors
        mean_y = mean_x - mean_d
        to_luminance = (g * (1 - structure)).div_(means)  # over `means`, which all its derivatives are
        to_square_d = (g * (1 - luminance)).div_(variances)  # by the blurred square of d
        to_squares = (to_square_d * structure).neg_()  # by the blurred squares of x and y
        along = to_luminance * luminance  # by -means
        # By the mean of x: means grow by 2 (mean_x + 1/2) + 2 (mean_y + 1/2), variances shrink by 2 mean_x + 2 mean_y.
        both = (mean_x + mean_y).mul_(-2)
        to_mean_x = (both * to_squares).addcmul_(both - 2, along)
        # By the mean of d, where mean_y = mean_x - mean_d.
        to_mean_d = (
            (mean_d * (to_luminance - to_square_d)).addcmul_(mean_y, to_squares).addcmul_(mean_y + 0.5, along).mul_(2)
        )
        of_squares, of_square_d = _blurred_back(to_squares).mul_(2), _blurred_back(to_square_d).mul_(2)
        by_x = by_y = None
        if ctx.needs_input_grad[0]:
            by_x = _blurred_back(to_mean_x + to_mean_d).addcmul_(x, of_squares).addcmul_(d, of_square_d)
        if ctx.needs_input_grad[1]:
            by_y = _blurred_back(to_mean_d).neg_().addcmul_(x - d, of_squares).addcmul_(d, of_square_d, value=-1)
        return by_x, by_y


_KERNEL = cv2.getGaussianKernel(WINDOW, SIGMA, cv2.CV_32F)


def _blurred(x: Tensor) -> Tensor:
    """`Blur` of the window on a CPU: (H, W) -> (H, W)."""
    blurred = cv2.sepFilter2D(x.numpy(), cv2.CV_32F, _KERNEL, _KERNEL, borderType=cv2.BORDER_REFLECT_101)
    return torch.from_numpy(np.asarray(blurred, np.float32))


def _blurred_back(g: Tensor) -> Tensor:
    """By the transposed matrices, which take a gradient back through `_blurred`: (H, W) -> (H, W)."""
    r = WINDOW // 2
    beyond = cv2.copyMakeBorder(g.numpy(), r, r, r, r, cv2.BORDER_CONSTANT, value=0)
    spread = cv2.sepFilter2D(beyond, cv2.CV_32F, _KERNEL, _KERNEL, borderType=cv2.BORDER_CONSTANT)
    x = torch.from_numpy(np.asarray(spread, np.float32))
    for _ in range(2):  # what came from beyond the border was mirrored there
        x[r + 1 : 2 * r + 1] += x[:r].flip(0)
        x[-2 * r - 1 : -r - 1] += x[-r:].flip(0)
        x = x[r:-r].T
    return x.contiguous()
