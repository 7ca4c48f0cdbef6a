"""The segmentation head learns again from pictures seen a little before."""

from __future__ import annotations

import torch

from vtad.fitting.replay_buffer import PICTURES, RECENT, REPLAYS, ReplayBuffer, Seen

BATCH = 3


def seen(step: int) -> Seen:
    """A batch whose maps and share both hold the number of the picture over all batches."""
    number = torch.arange(BATCH, dtype=torch.float32) + BATCH * step
    maps = tuple(number[:, None, None, None].expand(BATCH, 2, side, side) for side in (4, 2, 1, 1))
    return Seen(maps, number[:, None, None].expand(BATCH, 1, 1))


def filled(steps: int, seed: int = 0) -> ReplayBuffer:
    replay = ReplayBuffer(seed, BATCH)
    for step in range(steps):
        replay.recent.append(seen(step))
    return replay


def numbers(replay: ReplayBuffer, step: int) -> list[list[float]]:
    return [batch.share.flatten().tolist() for batch, _ in replay.batches(step)]


def test_nothing_is_replayed_before_anything_was_seen() -> None:
    assert numbers(ReplayBuffer(0, BATCH), 0) == []


def test_a_picture_keeps_its_maps_and_its_damage_together() -> None:
    for batch, _ in filled(4).batches(7):
        assert [tuple(m.shape) for m in batch.maps] == [(PICTURES, 2, side, side) for side in (4, 2, 1, 1)]
        for m in batch.maps:
            assert torch.equal(m, batch.share[:, :, :, None].expand_as(m))


def test_all_recent_pictures_are_replayed_and_no_older_ones() -> None:
    steps = RECENT // BATCH + 5
    replay, late = filled(steps), range(5 * BATCH, steps * BATCH)
    drawn = {n for step in range(200) for batch in numbers(replay, step) for n in batch}
    assert drawn == set(late)


def test_what_is_drawn_depends_on_the_seed_and_the_step_alone() -> None:
    replay = filled(4)
    assert len(numbers(replay, 3)) == REPLAYS
    assert numbers(replay, 3) == numbers(replay, 3) == numbers(filled(4), 3)
    assert numbers(replay, 3) != numbers(replay, 4)
    assert numbers(replay, 3) != numbers(filled(4, seed=1), 3)


def test_processes_replay_together_what_one_replays_alone() -> None:
    for step in range(20):
        alone = [sorted(drawn) for drawn in numbers(filled(4), step)]
        shared: list[list[float]] = [[] for _ in alone]
        for rank in range(BATCH):
            mine = slice(rank, None, BATCH)
            replay = ReplayBuffer(0, BATCH, mine)
            for s in range(4):
                maps, share = seen(s)
                replay.recent.append(Seen(tuple(m[mine] for m in maps), share[mine]))
            for drawn, (batch, weight) in zip(shared, replay.batches(step), strict=True):
                assert weight in (0, 1 / PICTURES)
                drawn.extend(batch.share.flatten().tolist() if weight else [])
        assert [sorted(drawn) for drawn in shared] == alone
