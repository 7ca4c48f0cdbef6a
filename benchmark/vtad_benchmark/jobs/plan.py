"""What there is to do: every category with every seed and every method, and where each of these jobs keeps what it makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtad_benchmark.methods.options import Options, short_name
from vtad_runtime.contract.disk.files import fitting_name


@dataclass(frozen=True)
class Job:
    """One method on one category with one seed."""

    category: str
    seed: int
    method: str  # a baseline, or a preset by its name or file
    asked: tuple[tuple[str, Any], ...]  # of the method beside its defaults
    fingerprint: str  # of its configuration

    def __str__(self) -> str:
        """As progress names it."""
        asked = "".join(f", {name} {value}" for name, value in self.asked)
        return f"{self.category}, {short_name(self.method)}{asked}, seed {self.seed}"

    @property
    def folder(self) -> str:
        """Of its run, below runs/, and of its row, below rows/."""
        asked = (f"{name}{value}" for name, value in self.asked)
        return fitting_name("-".join([short_name(self.method), *asked, f"seed{self.seed}"]))


@dataclass(frozen=True)
class Plan:
    """What was asked for."""

    data: Path  # folder of categories
    out: Path  # gets runs/, rows/, and the tables
    categories: tuple[str, ...]
    seeds: int  # 0, 1, ... of the split and the training
    methods: tuple[str, ...]
    options: Options

    def jobs(self) -> list[Job]:
        """All of them, one seed after the other, so that what was stopped early has most of all. Raises ConfigError."""
        prints = {method: self.options.fingerprint(method) for method in self.methods}
        return [
            Job(category, seed, method, tuple(self.options.asked(method).items()), prints[method])
            for seed in range(self.seeds)
            for method in self.methods
            for category in self.categories
        ]

    def row(self, job: Job) -> Path:
        """The file that is there when the job is done."""
        return self._file("rows", job, ".json")

    def lock(self, job: Job) -> Path:
        """Held by whoever does the job."""
        return self._file("locks", job, ".lock")

    def failure(self, job: Job) -> Path:
        """Why the job could not be done when it was last tried."""
        return self._file("locks", job, ".failed")

    def runs(self, job: Job) -> Path:
        """The folder that gets <category>/<number>."""
        return self.out / "runs" / job.folder

    def _file(self, kind: str, job: Job, suffix: str) -> Path:
        return self.out / kind / job.folder / fitting_name(f"{job.category}-{job.fingerprint}", suffix)
