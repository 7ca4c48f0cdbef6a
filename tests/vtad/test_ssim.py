"""SSIM against the textbook formula, written out with scipy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import correlate1d
from torch import Tensor

from vtad.models.ssim import SSIM, Blur, gaussian_matrix

Float = NDArray[np.float64]


def textbook(x: Float, y: Float) -> Float:
    """Wang et al. 2004, equation 13: 11 x 11 Gaussian window of sigma 1.5, data range 1, mirrored border; (H, W) twice."""
    kernel = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    kernel /= kernel.sum()

    def blur(a: Float) -> Float:
        rows: Float = correlate1d(a, kernel, axis=0, mode="mirror")
        both: Float = correlate1d(rows, kernel, axis=1, mode="mirror")
        return both

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    return ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))


def random_pair(rng: np.random.Generator) -> tuple[Float, Float]:
    return rng.random((24, 37)), rng.random((24, 37))


def nearly_equal_pair(rng: np.random.Generator) -> tuple[Float, Float]:
    x = rng.random((24, 37))
    return x, np.clip(x + rng.normal(0, 1e-3, x.shape), 0, 1)


def flat_pair(rng: np.random.Generator) -> tuple[Float, Float]:
    return np.full((24, 37), 0.98), np.full((24, 37), 0.97)


def flat_against_texture(rng: np.random.Generator) -> tuple[Float, Float]:
    return np.full((24, 37), 0.02), 0.02 + 0.01 * rng.random((24, 37))


def black_and_white(rng: np.random.Generator) -> tuple[Float, Float]:
    return np.zeros((24, 37)), np.ones((24, 37))


@pytest.mark.parametrize("pair", [random_pair, nearly_equal_pair, flat_pair, flat_against_texture, black_and_white])
def test_ssim_is_that_of_the_textbook(pair: Callable[[np.random.Generator], tuple[Float, Float]]) -> None:
    x, y = (a.astype(np.float32) for a in pair(np.random.default_rng(0)))
    similarity = SSIM(24, 37)(torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None])[0, 0]
    np.testing.assert_allclose(similarity.numpy(), textbook(x.astype(np.float64), y.astype(np.float64)), atol=1e-5)


def test_an_image_is_exactly_like_itself() -> None:
    for x in (torch.rand(2, 3, 16, 20), torch.zeros(2, 3, 16, 20), torch.ones(2, 3, 16, 20)):
        assert torch.equal(SSIM(16, 20)(x, x), torch.ones_like(x))


def test_ssim_does_not_depend_on_the_order_and_channels_do_not_mix() -> None:
    x, y = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    ssim = SSIM(16, 16)
    torch.testing.assert_close(ssim(x, y), ssim(y, x), atol=1e-6, rtol=0)
    changed = y.clone()
    changed[:, 1] = 0.5
    torch.testing.assert_close(ssim(x, changed)[:, [0, 2]], ssim(x, y)[:, [0, 2]])


def test_bfloat16_images_are_compared_in_float32() -> None:
    x, y = torch.rand(1, 3, 16, 16).bfloat16(), torch.rand(1, 3, 16, 16).bfloat16()
    assert torch.equal(SSIM(16, 16)(x, y), SSIM(16, 16)(x.float(), y.float()))


@pytest.mark.parametrize(("height", "width"), [(64, 96), (33, 100), (1, 9), (31, 2)])
@pytest.mark.parametrize("window", [11, 17])
def test_a_blur_in_blocks_is_the_product_with_the_whole_matrices(height: int, width: int, window: int) -> None:
    x = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    rows, columns = (gaussian_matrix(size, window / 8, window) for size in (height, width))
    torch.testing.assert_close(Blur(height, width, window / 8, window)(x), rows @ x @ columns.T, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("size", "window"), [(1, 11), (4, 11), (11, 11), (40, 11), (9, 33)])
def test_every_row_of_the_blur_sums_to_one_also_where_the_window_is_larger_than_the_image(
    size: int, window: int
) -> None:
    matrix = gaussian_matrix(size, window / 7, window)
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(size), atol=1e-6, rtol=0)
    assert (matrix >= 0).all()


@pytest.mark.parametrize("size", [12, 7])
def test_the_blur_mirrors_the_image_at_its_border(size: int) -> None:
    signal = np.random.default_rng(1).random(size)
    kernel = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    expected = correlate1d(signal, kernel / kernel.sum(), mode="mirror")
    np.testing.assert_allclose(gaussian_matrix(size, 1.5, 11).double().numpy() @ signal, expected, atol=1e-6)


@pytest.mark.parametrize("size", [(24, 37), (16, 16), (5, 33)])
def test_the_gradient_of_both_images_is_that_of_the_textbook_formula(size: tuple[int, int]) -> None:
    down, across = (gaussian_matrix(n, 1.5, 11).double() for n in size)
    x, y, weight = (torch.rand(2, 3, *size, dtype=torch.float64) for _ in range(3))
    images = [x.requires_grad_(), y.requires_grad_()]

    def blur(a: Tensor) -> Tensor:
        return down @ a @ across.T

    mean_x, mean_y = blur(x), blur(y)
    covariance = blur(x * y) - mean_x * mean_y
    variances = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
    similarity = (2 * mean_x * mean_y + 1e-4) * (2 * covariance + 9e-4)
    similarity = similarity / ((mean_x**2 + mean_y**2 + 1e-4) * (variances + 9e-4))
    expected = torch.autograd.grad((weight * similarity).sum(), images)
    found = torch.autograd.grad((weight * SSIM(*size)(x, y)).sum(), images)
    for gradient, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-4)
