"""What several processes learn together is what one learns: shares of batches, sums of gradients; and whole trainings."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_camera import eventually
from tiny_run import done, flags, tiny
from torch import Tensor

from vtad.commands import programs
from vtad.commands.train import train as command
from vtad.config import Config
from vtad.data.images import ImageCache, split_good
from vtad.data.layout import find_category
from vtad.fitting import loop, sampling
from vtad.fitting.distributed import Processes
from vtad.fitting.learner import Learner
from vtad.fitting.sampling import Batch, BatchSampler
from vtad.inspection import input_spec
from vtad.models.detector import Detector
from vtad.run_folder import Run

SMALL: dict[str, Any] = {"image_height": 64, "image_width": 64, "feature_dim": 32, "batch_size": 4, "noise": 0.3}
EPOCHS = 6  # of three steps
ALIKE = 1e-4  # relative; sums of float32 in another order, which grows from step to step
ROUNDED = 5e-2  # where torchrun's processes found bfloat16 faster


@dataclass(frozen=True)
class Alone(Processes):
    """One of several that never hears of the others; it keeps what it would tell them."""

    said: list[Tensor] = field(default_factory=list)

    def add(self, tensors: Sequence[Tensor]) -> None:
        self.said.extend(tensor.detach().clone() for tensor in tensors)


@contextmanager
def images_of(config: Config) -> Iterator[ImageCache]:
    files = find_category(Path(config.data), config.category).train_good
    with ImageCache(split_good(files, config.val_split, config.seed)[0], input_spec(config)) as images:
        yield images


def told_to_the_others(config: Config, images: ImageCache, processes: Alone, steps: int = 3) -> list[Tensor]:
    """Losses and gradients of some steps, none of which changes a weight."""
    torch.manual_seed(0)
    sampler = BatchSampler(config, images)
    learner = Learner(config, Detector(config), sampler.batch_size, torch.device("cpu"), processes)
    for step in range(steps):
        learner.learn(sampler.draw(step, processes.share), step, rate=0.0)
    return processes.said


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("name", ["scratch", "default"])
def test_losses_and_gradients_of_the_processes_add_up_to_those_of_one(pills: Path, name: str, count: int) -> None:
    """With noise and replays; of four, two have no picture for the transformer."""
    config = tiny(name, data=str(pills), **SMALL)
    with images_of(config) as images:
        alone = told_to_the_others(config, images, Alone())
        each = [told_to_the_others(config, images, Alone(rank, count)) for rank in range(count)]
    assert len(alone) > 20
    for whole, *shares in zip(alone, *each, strict=True):
        torch.testing.assert_close(sum(shares), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("symmetries", ["none", "mirror,turn180"])
def test_a_row_of_a_batch_is_the_same_whoever_draws_it(pills: Path, symmetries: str) -> None:
    config = tiny(data=str(pills), symmetries=symmetries, batch_size=5, shift_and_zoom=0.5)
    with images_of(config) as images:
        sampler = BatchSampler(config, images)
        for step in range(3):
            whole = sampler.draw(step)
            for rank in range(3):
                mine = Processes(rank, 3).share
                share = sampler.draw(step, mine)
                assert share.size == whole.size == 5
                for name in ("rows", "indices", "shifted", "clean", "corrupted", "damaged"):
                    np.testing.assert_array_equal(getattr(share, name), getattr(whole, name)[mine])


class Started:
    """The processes of a training on this machine, forked from one that has imported torch already."""

    def __init__(self, count: int, folder: Path, *arguments: object, stop: tuple[int, int] | None = None) -> None:
        """`stop`: a rank and the signal that it gets in the third epoch. RANK in an argument is the process's."""
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(["vtad.training", "vtad.commands.train"])
        self.folder = folder
        folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = [str(a) for a in arguments]
        self.processes = [
            server.Process(target=trains, args=(r, count, port, folder, words, stop)) for r in range(count)
        ]
        for process in self.processes:
            process.start()

    def send(self, number: int, rank: int) -> None:
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, number)

    def ended(self) -> tuple[list[int | None], list[str]]:
        """The exit codes, and what each process said on stderr."""
        for process in self.processes:
            process.join(120)
        return [process.exitcode for process in self.processes], self.texts("stderr")

    def texts(self, name: str) -> list[str]:
        return [(self.folder / f"{name}{rank}").read_text() for rank in range(len(self.processes))]


def trains(rank: int, count: int, port: int, folder: Path, words: list[str], stop: tuple[int, int] | None) -> None:
    """One process, as torchrun starts it."""
    said = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
    os.environ.update({name: str(value) for name, value in said.items()}, GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    vars(loop)["bfloat16_gains"] = lambda *_: False  # it depends on the moment, and rounds
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / f"{name}{rank}", os.O_WRONLY | os.O_CREAT), descriptor)
    if stop is not None and stop[0] == rank:
        drawn = BatchSampler.draw

        def draw(sampler: BatchSampler, step: int, *rest: Any) -> Batch:
            if step == 7:
                os.kill(os.getpid(), stop[1])
            return drawn(sampler, step, *rest)

        vars(sampling)["BatchSampler"].draw = draw
    sys.argv = ["vtad-train", *(word.replace("RANK", str(rank)) for word in words)]
    programs.train()


def rows(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def assert_alike(one: Run, several: Run, tolerance: float = ALIKE) -> None:
    """The same curve and threshold, but for the order in which numbers are added."""
    assert [row["epoch"] for row in rows(one)] == [row["epoch"] for row in rows(several)]
    for a, b in zip(rows(one), rows(several), strict=True):
        for key in a.keys() - {"seconds", "best", "bfloat16"}:
            assert b[key] == pytest.approx(a[key], rel=tolerance), key
    assert several.complete
    assert not several.checkpoint.exists()
    assert several.card().calibration.threshold == pytest.approx(one.card().calibration.threshold, rel=tolerance)


def arguments(pills: Path, out: Path, **changes: Any) -> list[object]:
    small = flags(**{**SMALL, "preset": "default", "epochs": EPOCHS, "device": "cpu", **changes})
    return ["--category", "pill", "--data", pills, "--out", out, *small]


def run_in(out: Path) -> Run:
    return Run(out / "pill" / "0001")


def has_begun(run: Run) -> bool:
    return run.metrics.exists() and len(rows(run)) >= 2


@pytest.fixture(scope="module")
def alone(pills: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What one process makes of it."""
    out = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "bfloat16_gains", lambda *_: False)
        done(command, *arguments(pills, out))
    return run_in(out)


@pytest.mark.service
def test_torchrun_trains_by_two_processes_what_one_does(pills: Path, tmp_path: Path, alone: Run) -> None:
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = subprocess.run(
        [*words, "-m", "vtad.commands.train", *map(str, arguments(pills, tmp_path))],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count(": threshold ") == 1  # said once
    run = run_in(tmp_path)
    assert_alike(alone, run, ROUNDED if rows(run)[0]["bfloat16"] else ALIKE)


@pytest.mark.service
def test_a_training_of_two_that_is_stopped_is_continued_by_one(pills: Path, tmp_path: Path, alone: Run) -> None:
    run = run_in(tmp_path)
    started = Started(2, tmp_path / "said", *arguments(pills, tmp_path), stop=(1, signal.SIGINT))  # either will do
    codes, (first, second) = started.ended()
    assert codes == [130, 130]
    assert first == f"Error: stopped; continue by: vtad-train --resume --run {run.path}\n"
    assert second == ""
    assert len(rows(run)) == 2
    done(command, "--resume", "--run", run.path)
    assert_alike(alone, run)


@pytest.mark.service
def test_a_training_of_one_that_is_stopped_is_continued_by_two(pills: Path, tmp_path: Path, alone: Run) -> None:
    run = run_in(tmp_path)
    started = Started(1, tmp_path / "first", *arguments(pills, tmp_path), stop=(0, signal.SIGTERM))
    assert started.ended()[0] == [143]
    assert len(rows(run)) == 2
    started = Started(2, tmp_path / "then", "--resume", "--run", run.path)
    assert started.ended() == ([0, 0], ["", ""])
    assert started.texts("stdout")[1] == ""
    assert_alike(alone, run)


@pytest.mark.service
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_other_at_once_and_with_one_line(pills: Path, tmp_path: Path, rank: int) -> None:
    run = run_in(tmp_path)
    started = Started(2, tmp_path / "said", *arguments(pills, tmp_path, epochs=100_000))
    eventually(lambda: has_begun(run))
    started.send(signal.SIGKILL, rank)
    died = time.monotonic()
    codes, said = started.ended()
    assert time.monotonic() - died < 10
    assert (codes[rank], codes[1 - rank]) == (-signal.SIGKILL, 1)
    (line,) = said[1 - rank].splitlines()
    assert line.startswith(f"Error: process {1 - rank} of 2: another process of this training ended")
    assert {path.name for path in run.path.iterdir()} == {"config.json", "metrics.jsonl"}
    assert [row["epoch"] for row in rows(run)] == list(range(1, len(rows(run)) + 1))


@pytest.mark.service
def test_mistakes_of_all_are_said_by_the_first_alone(pills: Path, tmp_path: Path) -> None:
    started = Started(2, tmp_path / "said", *arguments(pills, tmp_path, batch_size=1))
    codes, (first, second) = started.ended()
    assert codes == [2, 2]
    assert "expected at most as many processes as pictures in a batch, which is 1, got 2" in first
    assert len(first.splitlines()) == 1
    assert second == ""
    assert not (tmp_path / "pill").exists()


@pytest.mark.service
def test_processes_that_do_not_have_the_same_pictures_do_not_train(pills: Path, tmp_path: Path) -> None:
    for rank in range(2):
        shutil.copytree(pills, tmp_path / f"data{rank}")
    min((tmp_path / "data1/pill/train/good").iterdir()).unlink()
    codes, (first, second) = Started(2, tmp_path / "said", *arguments(tmp_path / "dataRANK", tmp_path)).ended()
    assert codes == [2, 2]
    assert first.endswith("good pictures: expected the same for every process, process 1 has others\n")
    assert second == ""
    assert not (tmp_path / "pill").exists()


@pytest.mark.service
def test_the_minutes_are_those_of_the_first_process(pills: Path, tmp_path: Path) -> None:
    words = arguments(pills, tmp_path)
    at = words.index("--epochs")
    words[at : at + 2] = ["--minutes", "0.01"]
    assert Started(2, tmp_path / "said", *words).ended() == ([0, 0], ["", ""])
    assert run_in(tmp_path).complete
