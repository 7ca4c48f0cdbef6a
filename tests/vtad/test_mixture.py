"""The mixture over features."""

from __future__ import annotations

import torch

from vtad.models.feature_gmm import SharedMixture


def fitted(components: int = 2, rank: int = 3) -> tuple[SharedMixture, torch.Tensor]:
    """A mixture of two clouds in four dimensions, one of them long and thin, and the samples it comes from."""
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(4000, 4, generator=generator)
    samples[:2000] *= torch.tensor([5.0, 0.5, 0.5, 0.5])
    samples[2000:] += torch.tensor([0.0, 30.0, 0.0, 0.0])
    mixture = SharedMixture(4, components, rank)
    mixture.fit(samples)
    return mixture, samples


def nll_of(mixture: SharedMixture, points: torch.Tensor) -> torch.Tensor:
    """(N, C) -> (N,)."""
    nll: torch.Tensor = mixture(points.T[None, :, None, :])
    return nll[0, 0]


def test_the_mixture_is_the_likelihood_of_its_gaussians_up_to_a_constant() -> None:
    mixture, samples = fitted()
    points = samples[::400]
    z = mixture.whiten(points.T[None, :, None, :])[0, :, 0].T
    terms = []
    for k in range(2):
        rows = mixture.along.weight[k * 3 : (k + 1) * 3, :, 0, 0]
        bend = torch.diag(mixture.curvature[k * 3 : (k + 1) * 3, 0, 0, 0])
        precision = mixture.precision[k] * torch.eye(4) + rows.T @ bend @ rows
        off = z - mixture.centres[k]
        log_weight = mixture.log_weight[k]
        terms.append(log_weight - 0.5 * ((off @ precision) * off).sum(1))
    expected = -torch.logsumexp(torch.stack(terms, 1), 1)
    torch.testing.assert_close(nll_of(mixture, points), expected, rtol=1e-4, atol=1e-3)


def test_each_component_has_a_shape_of_its_own() -> None:
    mixture, _ = fitted()
    along, across = torch.tensor([[10.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 10.0, 0.0]])
    middle = torch.zeros(1, 4)
    far_along, far_across = (float(nll_of(mixture, p) - nll_of(mixture, middle)) for p in (along, across))
    assert far_along < 5  # two standard deviations of the long cloud
    assert far_across > 50  # twenty of its thin side


def test_what_lies_between_two_clouds_is_unlikely() -> None:
    mixture, samples = fitted()
    between = torch.tensor([[0.0, 15.0, 0.0, 0.0]])
    assert nll_of(mixture, between).item() > nll_of(mixture, samples).quantile(0.999).item()


def test_the_same_samples_give_the_same_mixture_and_few_are_enough() -> None:
    first, samples = fitted()
    second = SharedMixture(4, 2, 3)
    second.fit(samples)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    few = SharedMixture(4, 8, 3)
    few.fit(samples[:5])  # fewer than components
    assert nll_of(few, samples[:50]).isfinite().all()
