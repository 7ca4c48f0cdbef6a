"""The mixture density against its formula written out, and against the axioms of a density."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import norm
from torch import Tensor

from vtad.models.context_density import (
    LOG_SIGMA_FLOOR,
    ContextDensity,
    floor_log_sigma,
    mixture_nll,
    published_mixture_term,
)


def mixture(components: int, dim: int, cells: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log_pi (cells, K), mu and log_sigma (cells, K, D), y (cells, D)."""
    g = torch.Generator().manual_seed(components)
    log_pi = torch.log_softmax(torch.randn(cells, components, generator=g), dim=-1)
    mu = torch.randn(cells, components, dim, generator=g)
    return log_pi, mu, 0.5 * torch.randn(mu.shape, generator=g), torch.randn(cells, dim, generator=g)


def literal_nll(log_pi: Tensor, mu: Tensor, log_sigma: Tensor, y: Tensor) -> NDArray[np.float64]:
    pi, m, s, v = (t.double().numpy() for t in (log_pi, mu, log_sigma.exp(), y))
    return -np.asarray(logsumexp(pi + norm.logpdf(v[:, None, :], m, s).sum(-1), axis=-1))


@pytest.mark.parametrize("components", [1, 2, 150])
def test_the_likelihood_is_that_of_a_mixture_of_gaussians(components: int) -> None:
    parameters = mixture(components, dim=5)
    np.testing.assert_allclose(mixture_nll(*parameters), literal_nll(*parameters), rtol=1e-5, atol=1e-5)


def test_a_feature_far_from_every_component_is_unlikely_not_infinitely_so() -> None:
    log_pi, mu, log_sigma, y = mixture(3, dim=40)
    nll = mixture_nll(log_pi, mu, log_sigma, y + 1e4)
    assert torch.isfinite(nll).all()
    assert (nll > mixture_nll(log_pi, mu, log_sigma, y)).all()


def test_the_density_integrates_to_one() -> None:
    log_pi, mu, log_sigma, _ = mixture(4, dim=1, cells=1)
    grid = torch.linspace(-30, 30, 20001)
    shape = (len(grid), -1)
    parameters = (log_pi.expand(shape), mu.expand(*shape, 1), log_sigma.expand(*shape, 1))
    density = torch.exp(-mixture_nll(*parameters, grid[:, None]))
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-4)


def test_the_published_term_bounds_the_likelihood_and_equals_it_for_one_component() -> None:
    for components in (2, 9):
        parameters = mixture(components, dim=3)
        assert (published_mixture_term(*parameters) > mixture_nll(*parameters)).all()
    one = mixture(1, dim=3)
    torch.testing.assert_close(published_mixture_term(*one), mixture_nll(*one))


def test_the_standard_deviation_has_a_smooth_floor() -> None:
    x = torch.linspace(-50, 50, 1001)
    bounded = floor_log_sigma(x)
    assert (bounded >= LOG_SIGMA_FLOOR).all()
    assert (bounded.diff() >= 0).all()
    torch.testing.assert_close(bounded[-1], x[-1])


def shaken(components: int, grid: tuple[int, int] = (2, 3), cells: int = 2) -> ContextDensity:
    """A head with no weight left at zero."""
    torch.manual_seed(components)
    head = ContextDensity(embed_dim=6, feature_dim=4, components=components, grid=grid, cells=cells)
    for tensor in (*head.parameters(), *head.buffers()):
        tensor.data.copy_(0.4 * torch.randn(tensor.shape))
    return head


def expanded(head: ContextDensity, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The head's parameters as log_pi (B, rows, columns, K), mu and log_sigma (B, rows, columns, K, D)."""
    location = (head.base_location + head.to_cells(head.location(tokens))).permute(0, 2, 3, 1)[..., None, :]
    log_sigma = floor_log_sigma(head.base_log_sigma + head.log_sigma).permute(0, 2, 3, 1)[..., None, :]
    if head.components == 1:
        return torch.zeros(*log_sigma.shape[:-2], 1), location, log_sigma
    log_pi = torch.log_softmax(head.to_cells(head.logits(tokens)), dim=1).permute(0, 2, 3, 1)
    return log_pi, location + log_sigma.exp() * head.offset, log_sigma + head.log_spread


@pytest.mark.parametrize("components", [1, 2, 5])
@torch.no_grad()
def test_the_head_is_the_mixture_of_its_expanded_parameters(components: int) -> None:
    head = shaken(components)
    tokens, y = torch.randn(2, 6, 6), 2 * torch.randn(2, 4, 4, 6)
    nll = head(tokens, y)
    assert nll.shape == (2, 4, 6)
    torch.testing.assert_close(nll, mixture_nll(*expanded(head, tokens), y.permute(0, 2, 3, 1)), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_token_speaks_of_its_own_cells_only() -> None:
    head = shaken(3)
    tokens, y = torch.randn(1, 6, 6), torch.randn(1, 4, 4, 6)
    changed = tokens.clone()
    changed[0, 4] += 1  # second row, second column of a 2 x 3 grid
    moved = (head(tokens, y) != head(changed, y))[0]
    assert moved[2:, 2:4].all()
    assert moved.sum() == 4


@torch.no_grad()
def test_an_untrained_head_of_one_component_is_the_base_gaussian() -> None:
    head = ContextDensity(embed_dim=6, feature_dim=4, components=1, grid=(2, 2), cells=1)
    head.base_location.copy_(torch.randn(head.base_location.shape))
    nll = head(torch.randn(1, 4, 6), head.base_location)
    log_sigma = floor_log_sigma(torch.zeros(())).item()
    assert nll.flatten().tolist() == pytest.approx([4 * (log_sigma + 0.5 * math.log(2 * math.pi))] * 4, abs=1e-5)
