"""Patch memory, position Gaussian, segmentation head, and the input's size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vtad.backbones.backbone import MAP_CHANNELS
from vtad.data.sizing import chosen_size
from vtad.models.patch_memory import NEAREST, PatchMemory
from vtad.models.position_gaussian import PositionGaussian
from vtad.models.segmentation_head import LearnedPyramid, SegmentationHead, segmentation_loss


def clouds() -> torch.Tensor:
    """Samples (4000, 4) of two clouds, one long and thin."""
    samples = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0))
    samples[:2000] *= torch.tensor([5.0, 0.5, 0.5, 0.5])
    samples[2000:] += torch.tensor([0.0, 30.0, 0.0, 0.0])
    return samples


def fitted(patches: int = 200) -> PatchMemory:
    memory = PatchMemory(4, patches)
    memory.fit(clouds())
    return memory


def distances(memory: PatchMemory, points: torch.Tensor) -> torch.Tensor:
    """(N, C) -> (N,)."""
    out: torch.Tensor = memory(points.T[None, :, None, :])
    return out[0, 0]


def test_the_patch_memory_gives_the_distance_to_the_nearest_stored_patch() -> None:
    memory = fitted()
    points = torch.randn(50, 4, generator=torch.Generator().manual_seed(1)) * 20
    z = memory.principal(points.T[None, :, None, :])[0, :, 0].T
    stored = memory.nearest.patches.weight[:, :, 0, 0]
    nearest = torch.cdist(z, stored).min(1).values
    torch.testing.assert_close(distances(memory, points), nearest.clamp_min(NEAREST**0.5), rtol=1e-4, atol=1e-3)


def test_the_principal_directions_turn_and_scale_but_do_not_whiten() -> None:
    memory = fitted()
    points = clouds()[::40]
    z = memory.principal(points.T[None, :, None, :])[0, :, 0].T
    ratio = torch.cdist(z, z) / torch.cdist(points, points).clamp_min(1e-9)
    apart = torch.cdist(points, points) > 1
    assert ratio[apart].min() == pytest.approx(ratio[apart].max().item(), rel=1e-3)
    everything = memory.principal(clouds().T[None, :, None, :])[0, :, 0].T
    assert everything.var(0).sum().item() == pytest.approx(4, rel=1e-3)


def test_every_good_patch_is_near_a_stored_one_rare_ones_too_and_what_lies_between_is_not() -> None:
    rare = torch.tensor([[0.0, 0.0, 60.0, 0.0]])
    memory = PatchMemory(4, 200)
    memory.fit(torch.cat([clouds(), rare]))
    known = distances(memory, clouds())
    assert distances(memory, rare).item() == pytest.approx(NEAREST**0.5)
    between = torch.tensor([[0.0, 15.0, 0.0, 0.0]])
    assert distances(memory, between).item() > 2 * known.max().item()


def test_the_same_samples_give_the_same_memory_and_few_are_enough() -> None:
    first, second = fitted(), fitted()
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    few = PatchMemory(4, 200)
    few.fit(clouds()[:5])  # fewer than patches
    assert distances(few, clouds()[:50]).isfinite().all()
    assert distances(few, clouds()[:5]).max().item() == pytest.approx(NEAREST**0.5)


def test_next_to_a_stored_patch_engines_may_round_differently() -> None:
    memory = fitted()
    squares = torch.linspace(0, 4 * NEAREST, 50)
    stored = memory.nearest.patches.weight[:1, :, 0, 0]
    rounded = 5e-5  # of a squared distance: the rounding of its terms, which are a thousand times as large
    with torch.no_grad():
        memory.principal.weight.copy_(torch.eye(4)[:, :, None, None])
        memory.principal.bias.zero_()  # type: ignore[union-attr]  # it has one
        steps = torch.eye(4)[:1]
        exact = distances(memory, stored + squares.sqrt()[:, None] * steps)
        off = distances(memory, stored + (squares + rounded).sqrt()[:, None] * steps)
    assert (exact - off).abs().max() < 2e-4


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (6, 10), (2, 4)])
def test_the_position_gaussian_is_the_mahalanobis_distance_under_the_covariance_of_its_block(
    rows: int, columns: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(3, 3, generator=generator)
    offsets = torch.einsum("ij,njhw->nihw", mixing, torch.randn(400, 3, rows, columns, generator=generator))
    offsets[:, :, 0, 0] *= 3  # a position that varies more
    gaussian = PositionGaussian(3, rows, columns)
    gaussian.fit(offsets)
    found = gaussian(offsets)
    offsets = offsets - gaussian.mean
    assert found.shape == (400, rows, columns)
    factor = gaussian.factor[0]  # the block at the top left corner
    expected = torch.einsum("ij,nj->ni", factor, offsets[:, :, 1, 1]).norm(dim=1) / gaussian.scale[1, 1]
    torch.testing.assert_close(found[:, 1, 1], expected, rtol=1e-4, atol=1e-4)
    last = gaussian.factor[-1]
    expected = torch.einsum("ij,nj->ni", last, offsets[:, :, -1, -1]).norm(dim=1) / gaussian.scale[-1, -1]
    torch.testing.assert_close(found[:, -1, -1], expected, rtol=1e-4, atol=1e-4)
    assert found.square().mean().item() == pytest.approx(3, rel=0.35)  # of each position about the dimension
    assert gaussian.scale[0, 0] > 1.2 * gaussian.scale[-1, -1]


def test_an_offset_that_is_common_elsewhere_is_odd_where_it_is_not() -> None:
    offsets = torch.randn(200, 2, 4, 16, generator=torch.Generator().manual_seed(0))
    offsets[:, 0, :, 8:] *= 10  # the right half varies along the first direction
    gaussian = PositionGaussian(2, 4, 16)
    gaussian.fit(offsets)
    shown = torch.zeros(1, 2, 4, 16)
    shown[:, 0] = 8.0
    found = gaussian(shown)[0]
    assert found[:, :4].min() > 4 * found[:, 12:].max()


def parts(upper: Tensor, lower: Tensor) -> Tensor:
    """Pictures (N, 2, 8, 8) whose upper half shows one kind of part and whose lower half another, -1 or 1, with noise."""
    pictures = 0.1 * torch.randn(len(upper), 2, 8, 8, generator=torch.Generator().manual_seed(len(upper)))
    pictures[:, 0, :4] += upper[:, None, None]
    pictures[:, 0, 4:] += lower[:, None, None]
    return pictures


def test_what_does_not_go_with_the_rest_of_the_picture_is_odd_though_each_position_has_seen_it() -> None:
    kinds = torch.tensor([-1.0, 1.0]).repeat(60)
    good = parts(kinds, kinds)
    plain, following = PositionGaussian(2, 8, 8), PositionGaussian(2, 8, 8, directions=3)
    plain.fit(good)
    following.fit(good)
    same, mixed = parts(kinds[:20], kinds[:20]), parts(kinds[:20], -kinds[:20])
    mixed[:, 0, 2:4] = same[:, 0, 2:4]  # three quarters of the upper half go with nothing else
    assert plain(mixed).mean() == pytest.approx(plain(same).mean().item(), rel=0.2)
    assert following(same).square().mean().item() == pytest.approx(2, rel=0.35)
    assert following(mixed).mean() > 3 * following(same).mean()


def test_a_part_that_is_larger_than_any_good_one_cannot_explain_itself() -> None:
    kinds = torch.tensor([-1.0, 1.0]).repeat(60)
    gaussian = PositionGaussian(2, 8, 8, directions=3)
    gaussian.fit(parts(kinds, kinds))
    assert (
        gaussian(parts(20 * kinds[:20], 20 * kinds[:20])).mean() > 10 * gaussian(parts(kinds[:20], kinds[:20])).mean()
    )


def test_fewer_pictures_than_directions_give_those_that_they_have() -> None:
    kinds = torch.tensor([-1.0, 1.0, -1.0, 1.0])
    gaussian = PositionGaussian(2, 8, 8, directions=12)
    gaussian.fit(parts(kinds, kinds))
    assert gaussian(parts(kinds, kinds)).isfinite().all()
    assert gaussian.directions[:, 3:].abs().max() == 0


def test_the_segmentation_head_learns_to_tell_damaged_cells() -> None:
    torch.manual_seed(0)
    pyramid, head = LearnedPyramid(), SegmentationHead()
    image = torch.full((4, 6, 32, 32), 0.5)
    damaged = torch.zeros(4, 4, 4)
    for i in range(4):
        image[i, :3, 8 * i : 8 * i + 8, 8:16] = 0.9
        damaged[i, i, 1] = 1
    optimizer = torch.optim.AdamW([*pyramid.parameters(), *head.parameters()], 3e-3)
    for _ in range(60):
        loss = segmentation_loss(head(pyramid(image)), damaged)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    logits = head(pyramid(image))
    assert logits[damaged > 0].min() > logits[damaged == 0].max()


def test_the_head_takes_maps_at_four_strides() -> None:
    maps = LearnedPyramid()(torch.rand(2, 6, 32, 48))
    assert [m.shape[1] for m in maps] == list(MAP_CHANNELS)
    assert SegmentationHead()(maps).shape == (2, 4, 6)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(900, 900)] * 3, (384, 384)),  # the configured area
        ([(360, 480)] * 3, (448, 336)),  # the pictures' shape
        ([(500, 1260)] * 3, (608, 240)),
        ([(100, 100)] * 3, (96, 96)),  # never enlarged
        ([(10, 1000)] * 3, (192, 64)),  # a shape beyond 4 : 1 is squeezed
        ([(300, 300), (300, 300), (4000, 300)], (304, 304)),  # the median, whatever one picture is
    ],
)
def test_the_size_follows_the_median_picture(sizes: list[tuple[int, int]], expected: tuple[int, int]) -> None:
    assert chosen_size(sizes, 384 * 384) == expected
