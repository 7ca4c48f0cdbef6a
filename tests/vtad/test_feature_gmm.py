"""The feature GMM."""

from __future__ import annotations

import torch

from vtad.models.feature_gmm import FeatureGmm


def fitted(components: int = 2, rank: int = 3) -> tuple[FeatureGmm, torch.Tensor]:
    """A mixture of two clouds in four dimensions, one of them long and thin, and the samples it comes from."""
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(4000, 4, generator=generator)
    samples[:2000] *= torch.tensor([5.0, 0.5, 0.5, 0.5])
    samples[2000:] += torch.tensor([0.0, 30.0, 0.0, 0.0])
    gmm = FeatureGmm(4, components, rank)
    gmm.fit(samples)
    return gmm, samples


def nll_of(gmm: FeatureGmm, points: torch.Tensor) -> torch.Tensor:
    """(N, C) -> (N,)."""
    nll: torch.Tensor = gmm(points.T[None, :, None, :])
    return nll[0, 0]


def test_the_mixture_is_the_likelihood_of_its_gaussians_up_to_a_constant() -> None:
    gmm, samples = fitted()
    points = samples[::400]
    z = gmm.whiten(points.T[None, :, None, :])[0, :, 0].T
    terms = []
    for k in range(2):
        rows = gmm.along.weight[k * 3 : (k + 1) * 3, :, 0, 0]
        bend = torch.diag(gmm.curvature[k * 3 : (k + 1) * 3, 0, 0, 0])
        precision = gmm.precision[k] * torch.eye(4) + rows.T @ bend @ rows
        off = z - gmm.centres[k]
        log_weight = gmm.log_weight[k]
        terms.append(log_weight - 0.5 * ((off @ precision) * off).sum(1))
    expected = -torch.logsumexp(torch.stack(terms, 1), 1)
    torch.testing.assert_close(nll_of(gmm, points), expected, rtol=1e-4, atol=1e-3)


def test_each_component_has_a_shape_of_its_own() -> None:
    gmm, _ = fitted()
    along, across = torch.tensor([[10.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 10.0, 0.0]])
    middle = torch.zeros(1, 4)
    far_along, far_across = (float(nll_of(gmm, p) - nll_of(gmm, middle)) for p in (along, across))
    assert far_along < 5  # two standard deviations of the long cloud
    assert far_across > 50  # twenty of its thin side


def test_what_lies_between_two_clouds_is_unlikely() -> None:
    gmm, samples = fitted()
    between = torch.tensor([[0.0, 15.0, 0.0, 0.0]])
    assert nll_of(gmm, between).item() > nll_of(gmm, samples).quantile(0.999).item()


def test_the_same_samples_give_the_same_mixture_and_few_are_enough() -> None:
    first, samples = fitted()
    second = FeatureGmm(4, 2, 3)
    second.fit(samples)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    few = FeatureGmm(4, 8, 3)
    few.fit(samples[:5])  # fewer than components
    assert nll_of(few, samples[:50]).isfinite().all()
