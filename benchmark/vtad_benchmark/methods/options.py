"""What a method is given beside its defaults, its whole configuration, and a fingerprint of that. No torch: --help is quick."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtad.config import Config, ConfigError, preset
from vtad.preset_file import SUFFIX, preset_of
from vtad_benchmark.results.row import BASELINES

PATCHES = 20_000  # that PatchCore stores
# Of training, where neither --minutes nor the preset says.
MINUTES: dict[str, float] = {"paper": 60, "l1": 10, "ssim": 10}
PLACES = ("data", "out", "preset_file")  # fields of a configuration that say where something is
OWN_OPTION = ("size", "minutes", "epochs")
OF_THE_JOB = ("category", "seed", "preset", *PLACES)  # and those that are no choice of a method


@dataclass(frozen=True)
class Options:
    """What was asked for, of all methods that it concerns."""

    minutes: float | None = None  # of each training; None: the method's own
    epochs: int | None = None  # of each preset's training, in place of minutes
    size: tuple[int, int] | None = None  # height, width in pixels, of all but `paper`; None: as `default` chooses
    patches: int | None = None  # that PatchCore stores; None: PATCHES
    changes: tuple[tuple[str, Any], ...] = ()  # of the presets' configurations, by field

    def asked(self, method: str) -> dict[str, Any]:
        """What of it concerns a method: part of what tells jobs apart."""
        asked: dict[str, Any] = {}
        if self.minutes is not None and method not in ("padim", "patchcore"):
            asked["minutes"] = self.minutes
        if method not in BASELINES:
            asked |= dict(self.changes) | ({} if self.epochs is None else {"epochs": self.epochs})
        if self.size is not None and method != "paper":
            asked["size"] = f"{self.size[0]}x{self.size[1]}"
        if self.patches is not None and method == "patchcore":
            asked["patches"] = self.patches
        return asked

    def config(self, method: str, category: str, seed: int, *, data: str = "data", out: str = "runs") -> Config:
        """The configuration of a preset; of a baseline that of `default`, whose pixels it sees. Raises ConfigError.

        A preset is named, or the path of its file.
        """
        changes: dict[str, Any] = {"data": data, "out": out, "seed": seed}
        if self.size is not None and method != "paper":
            changes["image_height"], changes["image_width"] = self.size
        if method in BASELINES:
            return preset("default", category, **changes)
        for name, value in self.changes:
            if name in (*OF_THE_JOB, *OWN_OPTION):
                raise ConfigError(f"--change: {name} has an option of its own: leave it out of --change")
            changes[name] = value
        if self.epochs is not None:
            changes["epochs"] = self.epochs
        elif self.minutes is not None or method in MINUTES:
            changes["minutes"] = self.minutes or MINUTES[method]
        return preset_of(method, category, **changes)

    def baseline_minutes(self, method: str) -> float:
        """Of training, of a baseline that takes any."""
        return self.minutes or MINUTES[method]

    def stored_patches(self) -> int:
        """Of PatchCore."""
        return self.patches or PATCHES

    def fingerprint(self, method: str) -> str:
        """Of all values that make the method what it is, the category, the seed and the folders aside: twelve hex digits."""
        config = self.config(method, "any", 0)
        values = dataclasses.asdict(config)
        values = {name: value for name, value in values.items() if name not in OF_THE_JOB}
        if method in BASELINES:
            seen = ("size", "image_height", "image_width", "fit", "bits", "val_split", "false_alarms", "device")
            values = {name: values[name] for name in seen}
            if method in MINUTES:
                values["minutes"] = self.baseline_minutes(method)
            if method == "patchcore":
                values["patches"] = self.stored_patches()
        name = method if method in BASELINES else config.preset
        text = json.dumps({"method": name, **values}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def short_name(method: str) -> str:
    """A method as tables and folders name it: of the file of a preset, its name without folder and suffix."""
    return Path(method).stem if method.endswith(SUFFIX) else method


def adopts(found: Config, wanted: Config) -> bool:
    """Whether a training by `found` is one by `wanted`: all values alike, those aside that a training finds by itself."""
    free = set(PLACES)
    if wanted.size == "auto":
        free |= {"size", "image_height", "image_width"}
    free |= {name for name in ("bits", "symmetries") if getattr(wanted, name) == "auto"}
    if wanted.shift is None:
        free |= {"shift"}
    if not wanted.backbone_shape:
        free |= {"backbone_shape", "backbone_sha256"}
    values, expected = dataclasses.asdict(found), dataclasses.asdict(wanted)
    return all(values[name] == expected[name] for name in values.keys() - free)
