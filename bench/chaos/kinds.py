"""The kinds of chaos: what is started, when it is killed or finds a full disk, and which promises hold afterwards."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from .disk import Disk, small_disk
from .material import Material, drawn_room, is_defective, picture
from .programs import KILLED, Ended, Moment, Process
from .promises import Promises, digest, digests, rows

OK, NG, USAGE, NOT_WRITTEN, SIGNALLED = 0, 1, 2, 4, 143
RUNTIME_S, WATCH_S = 1.0, 3.0  # that a short run, and a hot folder, usually take
MOST_KILLS = 3  # of one step; a new run sweeps three earlier results folders
FED = 8  # pictures that a hot folder gets before each start
OTHER_DISK = Path("/dev/shm")


@dataclass
class Step:
    """One step: its random numbers, an empty folder, and what was done."""

    rng: Random
    folder: Path
    material: Material
    promises: Promises = field(default_factory=Promises)
    kills: int = 0

    def killed(self, process: Process, where: Path, usual_s: float, *codes: int) -> Ended:
        """Kill a process that writes below `where`; it may have ended before by one of these codes."""
        ended = process.kill(Moment.drawn(self.rng, usual_s), where)
        self.kills += ended.exit_code == KILLED
        self.promises.ended(ended, KILLED, *codes)
        self.promises.whole(where)
        return ended

    def times(self) -> range:
        """How often to kill."""
        return range(self.rng.randint(1, MOST_KILLS))


def hot(step: Step) -> None:
    """vtad-run --watch: every picture judged once and sorted once, over any number of kills."""
    with _sorted_to(step) as to:
        line = HotLine(step, step.folder / "out", to)
        for _ in step.times():
            line.feed()
            step.killed(line.start(), step.folder, WATCH_S)
            step.promises.whole(to)
        line.feed()
        line.finish()


def hot_full(step: Step) -> None:
    """The same where the results come to a full disk: exit code 4, and on it goes when there is room."""
    with small_disk(step.folder / "disk") as disk, _sorted_to(step) as to:
        line = HotLine(step, disk.folder / "out", to)
        line.feed()
        disk.fill(drawn_room(step.rng, 300_000))
        process = line.start(disk.largest)
        process.until(line.is_sorted, 20)
        _after_full(step, process.stop(), disk, OK)
        line.feed()
        line.finish()


class HotLine:
    """A hot folder, what is put into it, and what must come out."""

    def __init__(self, step: Step, out: Path, to: Path) -> None:
        self._step, self._in, self._out, self._to = step, step.folder / "in", out, to
        self._put: dict[str, int] = {}  # number of the picture by its name
        self._in.mkdir()

    def feed(self) -> None:
        """Put pictures into it, as a writer does who knows how."""
        for _ in range(FED):
            number = len(self._put)
            name = f"{'sub/' if number % 3 == 0 else ''}{number:03d}.png"
            file = self._in / name
            file.parent.mkdir(exist_ok=True)
            beside = file.with_suffix(".part")
            beside.write_bytes(picture(number))
            beside.replace(file)
            self._put[name] = number

    def start(self, largest: int | None = None) -> Process:
        """Watch it."""
        given = ["--model", self._step.material.model, "--watch", self._in, "--out", self._out, "--sort-to", self._to]
        more = ["--save", "all", "--save-originals", "--log-json"]
        return Process("vtad-run", *given, *more, cwd=self._step.folder, largest=largest)

    def is_sorted(self) -> bool:
        """Whether all is judged and gone from the folder."""
        return not list(self._in.rglob("*.png"))

    def finish(self) -> None:
        """Run to the end of what is there, and check all of it."""
        promises, process = self._step.promises, self.start()
        done = process.until(self.is_sorted)
        ended = process.stop()
        promises.ended(ended, OK)
        promises.that(done, f"not judged and sorted: {sorted(p.name for p in self._in.rglob('*.png'))}: {ended.errors}")
        promises.whole(self._out)
        found = [row for results in sorted(self._out.glob("*/results.jsonl")) for row in rows(results)]
        judged = Counter(Path(row["file"]).relative_to(self._in).as_posix() for row in found)
        promises.that(judged == Counter(self._put.keys()), f"rows of each picture, of {len(self._put)}: {judged}")
        for row in found:
            name = Path(row["file"]).relative_to(self._in).as_posix()
            number, verdict = self._put[name], row["verdict"]
            right = "NG" if is_defective(number) else "OK"
            aside = verdict == "ERROR" and "set aside" in str(row["reason"])  # alone in hand at two kills
            promises.that(verdict == right or aside, f"{name}: {verdict} ({row['reason']}), expected {right}")
            copies = [p for p in self._to.glob(f"*/{name}") if p.is_file()]
            promises.that(copies == [self._to / verdict / name], f"{name}, {verdict}: sorted to {copies}")
            promises.that(copies[0].read_bytes() == picture(number), f"{copies[0]}: not the picture that was put in")
        sorted_files = list(self._to.rglob("*.png"))
        promises.that(len(sorted_files) == len(self._put), f"{len(sorted_files)} sorted files of {len(self._put)}")
        left = [p for p in self._in.rglob("*") if p.is_file() and not p.name.endswith(".lock")]
        promises.that(not left, f"left in the hot folder: {left}")
        promises.swept(self._in, self._out, self._to)


def folder(step: Step) -> None:
    """vtad-run --folder: whole rows and pictures after each kill, and a next run that has all of them."""
    out = step.folder / "out"
    for _ in step.times():
        step.killed(_judge(step, out), step.folder, RUNTIME_S, NG)
    _judged_all(step, out)


def folder_full(step: Step) -> None:
    """The same on a full disk: exit code 4."""
    with small_disk(step.folder / "disk") as disk:
        disk.fill(drawn_room(step.rng, 1_000_000))
        _after_full(step, _judge(step, disk.folder / "out", disk.largest).ended(), disk, NG)
        _judged_all(step, disk.folder / "out")


def _judge(step: Step, out: Path, largest: int | None = None) -> Process:
    given = ["--model", step.material.model, "--folder", step.material.pictures, "--out", out]
    more = ["--save-originals", "--image", step.rng.choice(("jpg", "png"))]
    return Process("vtad-run", *given, *more, cwd=step.folder, largest=largest)


def _judged_all(step: Step, out: Path) -> None:
    promises = step.promises
    promises.ended(_judge(step, out).ended(), NG)
    promises.whole(step.folder)
    promises.swept(step.folder)
    newest = max(out.iterdir())
    found = rows(newest / "results.jsonl")
    expected = {p.name: "NG" if is_defective(int(p.stem)) else "OK" for p in step.material.pictures.iterdir()}
    promises.that(len(found) == len(expected), f"{newest}: {len(found)} rows of {len(expected)} pictures")
    for row in found:
        name = Path(row["file"]).name
        promises.that(row["verdict"] == expected[name], f"{newest}: {name}: {row['verdict']}")
        for kind in ("heatmap", "original"):
            promises.that((newest / row[kind]).is_file(), f"{newest}: {row[kind]}: named in a row and not there")
    promises.that((newest / "summary.json").is_file(), f"{newest}: no summary")


def calibrate(step: Step) -> None:
    """vtad-calibrate: the model as it was, the new file whole or not there."""
    home, target, before = _model(step, step.folder / "home")
    for _ in step.times():
        there = digest(target) if target.exists() else None
        step.killed(_calibrate(step, home), home, RUNTIME_S, USAGE if there else OK)
        step.promises.same(before | ({target.name: there} if there else {}), home)
    _calibrated(step, home, target, before)


def calibrate_full(step: Step) -> None:
    """The same on a full disk: exit code 4, nothing written."""
    with small_disk(step.folder / "disk") as disk:
        home, target, before = _model(step, disk.folder / "home")
        disk.fill(drawn_room(step.rng, target.with_name("tiny.onnx").stat().st_size))
        ended = _calibrate(step, home, disk.largest).ended()
        step.promises.that(target.exists() == (ended.exit_code == OK), f"{target}: exit code {ended.exit_code}")
        _after_full(step, ended, disk, OK)
        _calibrated(step, home, target, before)


def _model(step: Step, home: Path) -> tuple[Path, Path, dict[str, str]]:
    home.mkdir()
    shutil.copy(step.material.model, home)
    return home, home / "tiny-calibrated.onnx", digests(home)


def _calibrate(step: Step, home: Path, largest: int | None = None) -> Process:
    given = ["--model", home / "tiny.onnx", "--good", step.material.good, "--false-alarms", "0.1"]
    return Process("vtad-calibrate", *given, cwd=step.folder, largest=largest)


def _calibrated(step: Step, home: Path, target: Path, before: dict[str, str]) -> None:
    """It was written before, which the program says, or is now."""
    expected = USAGE if target.exists() else OK
    step.promises.ended(_calibrate(step, home).ended(), expected)
    step.promises.that(target.is_file(), f"{target}: not there")
    step.promises.whole(home)
    step.promises.same(before, home)
    step.promises.swept(home)


def train(step: Step) -> None:
    """vtad-train: a run folder is complete, or continues to the weights of the undisturbed run."""
    expected, out = step.material.run, step.folder / "runs"
    for _ in step.times():
        step.killed(_train(step, out), out, step.material.training_s, OK)
    _trained(step, out, expected)


def train_full(step: Step) -> None:
    """The same on a full disk: exit code 4."""
    with small_disk(step.folder / "disk") as disk:
        expected, out = step.material.run, disk.folder / "runs"
        disk.fill(drawn_room(step.rng, 10 * (expected / "model.safetensors").stat().st_size))
        _after_full(step, _train(step, out, disk.largest).ended(), disk, OK)
        _trained(step, out, expected)


def _train(step: Step, out: Path, largest: int | None = None) -> Process:
    """Continue the run that can be continued, or begin one."""
    unfinished = [p.parent for p in out.glob("pill/*/checkpoint.safetensors") if not (p.parent / "card.json").exists()]
    if unfinished:
        return Process("vtad-train", "--resume", "--run", max(unfinished), cwd=step.folder, largest=largest)
    return Process("vtad-train", *step.material.training, "--out", out, cwd=step.folder, largest=largest)


def _trained(step: Step, out: Path, expected: Path) -> None:
    promises = step.promises
    promises.ended(_train(step, out).ended(), OK)
    promises.whole(step.folder)
    promises.swept(step.folder)
    complete = [p.parent for p in out.glob("pill/*/card.json")]
    promises.that(len(complete) > 0, f"{out}: no complete run")
    for run in complete:
        for name in ("model.safetensors", "calibration.json"):
            same = (run / name).read_bytes() == (expected / name).read_bytes()
            promises.that(same, f"{run / name}: not that of a run that nobody disturbed")
        promises.that(not (run / "checkpoint.safetensors").exists(), f"{run}: complete, and its checkpoint is there")


def export(step: Step) -> None:
    """vtad-export: the run as it was, its export the old one or a new whole one."""
    run, before = _run(step, step.folder / "run")
    step.killed(_export(step, run), run, step.material.export_s, OK)
    _exported(step, run, before)


def export_full(step: Step) -> None:
    """The same on a full disk: exit code 4."""
    with small_disk(step.folder / "disk") as disk:
        run, before = _run(step, disk.folder / "run")
        artefact = run / "export" / "pill.onnx"
        old = digest(artefact)
        disk.fill(drawn_room(step.rng, 2 * artefact.stat().st_size))
        ended = _export(step, run, disk.largest).ended()
        step.promises.that(ended.exit_code == OK or digest(artefact) == old, f"{artefact}: not as it was")
        _after_full(step, ended, disk, OK)
        _exported(step, run, before)


def _run(step: Step, run: Path) -> tuple[Path, dict[str, str]]:
    shutil.copytree(step.material.exported, run)
    return run, {name: value for name, value in digests(run).items() if not name.startswith("export/")}


def _export(step: Step, run: Path, largest: int | None = None) -> Process:
    return Process("vtad-export", "--run", run, cwd=step.folder, largest=largest)


def _exported(step: Step, run: Path, before: dict[str, str]) -> None:
    artefact = run / "export" / "pill.onnx"
    step.promises.that(artefact.is_file(), f"{artefact}: gone")
    step.promises.whole(run)
    step.promises.same(before, run)
    step.promises.ended(_export(step, run).ended(), OK)
    step.promises.whole(run)
    step.promises.same(before, run)
    step.promises.swept(run)


def _after_full(step: Step, ended: Ended, disk: Disk, fitted: int) -> None:
    """Exit code 4, or that of a run that fitted; whole files, no part; then there is room."""
    step.promises.ended(ended, NOT_WRITTEN, fitted)
    step.promises.whole(disk.folder)
    step.promises.swept(disk.folder)
    disk.make_room()


@contextmanager
def _sorted_to(step: Step) -> Iterator[Path]:
    """A folder to sort into, on this file system or on another one."""
    there = os.access(OTHER_DISK, os.W_OK) and OTHER_DISK.stat().st_dev != step.folder.stat().st_dev
    if step.rng.random() < 0.5 and there:
        with TemporaryDirectory(dir=OTHER_DISK) as name:
            yield Path(name) / "sorted"
    else:
        yield step.folder / "sorted"


KINDS: dict[str, Callable[[Step], None]] = {
    "hot": hot,
    "folder": folder,
    "calibrate": calibrate,
    "train": train,
    "export": export,
    "hot-full": hot_full,
    "folder-full": folder_full,
    "calibrate-full": calibrate_full,
    "train-full": train_full,
    "export-full": export_full,
}
