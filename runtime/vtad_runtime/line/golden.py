"""Golden samples: known good and known bad parts show whether model, machine and camera are still those that were trusted.

    golden/
      good/    pictures of known good parts: must be judged OK
      bad/     pictures of known bad parts: must be judged NG
      fresh/   optional: new pictures of the same parts, fresh/good/1.png beside good/1.png
      golden.json   scores, model and picture statistics, written the first time; delete it to record anew

Two questions, kept apart:
- *Model, machine, files*: the stored pictures through the model give the stored scores. Nothing before the file moves, so
  another score means another model file, other software or another picture file. Asked at every check.
- *Camera*: the golden parts are put before the camera again. Their new pictures (in fresh/, or one frame of a good part)
  are compared with the stored ones: brightness, colour, contrast, focus, position, score, verdict.

Pictures and frames are taken alike: after region, rotation and flip, as the model gets them.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.image import ImageError, is_image
from vtad_runtime.contract.json_values import iso_utc
from vtad_runtime.contract.threshold.conformal import LEAST_MARGIN, spread
from vtad_runtime.line.golden_record import GoldenError, Model, Part, Record, sha256, software
from vtad_runtime.line.view import ALIKE, FLAT, MOST_SHIFT, Fitted, Shift, changes, shift
from vtad_runtime.verdict.detector import Detector, Result
from vtad_runtime.verdict.verdict import Verdict, decide

__all__ = ["Golden", "GoldenError", "GoldenReport"]

GOOD, BAD, FRESH = "good", "bad", "fresh"
EXPECTED = {GOOD: Verdict.OK, BAD: Verdict.NG}
SAME_SCORE = LEAST_MARGIN  # of the calibration spread: the same picture through the same model, on any machine
FRESH_SPREADS = 3.0  # calibration spreads that a good part's score may move between two pictures of it

Cause = Literal["camera", "model", "none"]
_Judged = tuple[Part, Fitted]  # a stored picture


@dataclass(frozen=True)
class GoldenReport:
    """What a check found."""

    ok: bool
    lines: tuple[str, ...]  # what is wrong, one finding each, then what was found in order
    cause: Cause  # model: model, software or stored files changed; camera: the pictures changed; none: nothing did


@dataclass(frozen=True)
class _Fresh:
    """One new picture of a golden part."""

    name: str  # for the lines
    kind: str  # good or bad
    rgb: NDArray[np.uint8]
    same_name: str | None  # the stored picture of the same name, if there is one


class Golden:
    """The golden samples of a folder, for one detector."""

    def __init__(self, folder: Path, detector: Detector) -> None:
        """Raises GoldenError: no such folder, not one good and one bad picture in it, or a damaged golden.json."""
        self._folder, self._detector = folder, detector
        self._file = folder / "golden.json"
        found = self._pictures()
        if not all(any(name.startswith(f"{kind}/") for name in found) for kind in EXPECTED):
            counts = " and ".join(f"{sum(n.startswith(f'{kind}/') for n in found)} in {kind}/" for kind in EXPECTED)
            raise GoldenError(
                f"{folder}: expected pictures of known parts, at least one in good/ and one in bad/, got {counts}"
            )
        self._record = Record.read(self._file) if self._file.exists() else None
        card = detector.card
        self._model = Model(str(detector.path), sha256(detector.path), card.weights_sha256, card.calibration.threshold)
        self._spread = spread(card.calibration.scores)

    def check(self, frame_rgb: NDArray[np.uint8] | None = None) -> GoldenReport:
        """Judge the stored pictures, and fresh ones if there are any; the first time, write golden.json.

        `frame_rgb`, (H, W, 3) uint8, is a frame of a known *good* part before the camera. Problems are reported, not
        raised. Raises GoldenError: folders that cannot be read, a first record that cannot be made or written; ModelError.
        """
        judged, failed = self._judge_stored()
        first = self._record is None
        if self._record is None:
            if failed:
                raise GoldenError(next(iter(failed.values())))
            parts = {name: part for name, (part, _) in judged.items()}
            record = Record(iso_utc(time.time()), self._model, software(), parts)
            record.write(self._file)
            self._record = record
        record = self._record
        changed = self._changed(record, judged, failed)
        wrong = [line for name, (part, _) in judged.items() if (line := self._wrong(name, part))]
        same = {name: fitted for name, (part, fitted) in judged.items() if _unchanged(record.parts.get(name), part)}
        moved, seen = self._camera(record, same, frame_rgb, compare_scores=not changed)
        problems, said = (*changed, *wrong, *moved), ""
        if first:
            good = sum(name.startswith(f"{GOOD}/") for name in judged)
            said = f"recorded {good} good and {len(judged) - good} bad parts in {self._file}"
        elif not (changed or wrong):
            said = f"{len(record.parts)} golden parts judged as recorded {record.recorded}"
        cause: Cause = "model" if changed else "camera" if moved else "none"
        return GoldenReport(not problems, (*problems, *filter(None, (said, seen))), cause)

    def _judge_stored(self) -> tuple[dict[str, _Judged], dict[str, str]]:
        """The stored pictures by name, those of the record too; and for each that cannot be judged, why."""
        judged: dict[str, _Judged] = {}
        failed: dict[str, str] = {}
        known = self._record.parts.keys() if self._record else set()
        for name in sorted(known | self._pictures()):
            try:
                judged[name] = self._part(name)
            except GoldenError as e:
                failed[name] = str(e)
        return judged, failed

    def _changed(self, record: Record, judged: dict[str, _Judged], failed: dict[str, str]) -> list[str]:
        """Lines that say what is other than recorded: the model, scores, picture files."""
        changed = self._model_changed(record.model)
        lines, scores = dict(failed), dict[str, tuple[float, float]]()
        for name, (now, _) in judged.items():
            before = record.parts.get(name)
            if before is None:
                lines[name] = (
                    f"{name}: not in {self._file}, which was recorded before it; delete that file to record anew"
                )
            elif not _unchanged(before, now):
                lines[name] = f"{name}: picture file changed: sha256 {before.sha256[:12]} -> {now.sha256[:12]}"
            elif abs(now.score - before.score) > SAME_SCORE * self._spread:
                scores[name] = before.score, now.score
        if scores:
            worst, (was, now_is) = max(scores.items(), key=lambda item: abs(item[1][1] - item[1][0]))
            text = (
                f"{len(scores)} of {len(record.parts)} stored pictures have another score, most {worst}: "
                f"{was:.4g} -> {now_is:.4g}"
            )
            why = "" if changed else f"; model file and pictures are the same, {_software_changed(record)}"
            changed.append(text + why)
        return changed + [lines[name] for name in sorted(lines)]

    def _camera(
        self, record: Record, same: dict[str, Fitted], frame_rgb: NDArray[np.uint8] | None, compare_scores: bool
    ) -> tuple[list[str], str]:
        """Compare fresh pictures with the stored ones that are the `same` as recorded: what changed, or that nothing did."""
        fresh, moved = self._fresh()
        if frame_rgb is not None:
            fresh.append(_Fresh("frame", GOOD, frame_rgb, None))
        if not fresh:
            return moved, ""
        for picture in fresh:
            moved += self._compare(picture, record, same, compare_scores)
        count = f"{len(fresh)} fresh {'picture' if len(fresh) == 1 else 'pictures'}"
        return moved, "" if moved else f"camera as recorded: {count} compared"

    def _compare(self, fresh: _Fresh, record: Record, references: dict[str, Fitted], compare_scores: bool) -> list[str]:
        """What is different in a fresh picture, in at most one line."""
        same_kind = {n: f for n, f in references.items() if n.startswith(f"{fresh.kind}/")}
        if not same_kind:
            return []  # its stored pictures are missing or changed, which is said already
        try:
            result = self._detector(fresh.rgb)
            picture = Fitted.of(fresh.rgb, self._detector.card.input)
        except ImageError as e:
            return [f"camera changed: {fresh.name}: {e}"]
        name, moved = _nearest(
            picture, {fresh.same_name: references[fresh.same_name]} if fresh.same_name in references else same_kind
        )
        reference = record.parts[name]
        height, width = fresh.rgb.shape[:2]
        found = []
        if (width, height) != (reference.width, reference.height):
            found.append(f"size {reference.width}x{reference.height} -> {width}x{height}")
        found += changes(reference.view, picture.view())
        found += _position(moved, reference, picture)
        if compare_scores:
            found += self._score(fresh.kind, reference, result)
        return [f"camera changed ({fresh.name} against {name}): {', '.join(found)}"] if found else []

    def _score(self, kind: str, before: Part, now: Result) -> list[str]:
        """What the change does to the score, where that matters."""
        text = f"score {before.score:.4g} -> {now.score:.4g}"
        if (verdict := self._says(now)) is not EXPECTED[kind]:
            return [f"{text}, known {kind} but judged {verdict}"]
        threshold = self._model.threshold
        if kind == GOOD:
            far = abs(now.score - before.score) > FRESH_SPREADS * self._spread
        else:  # defects differ; what counts is that half the distance to the threshold is left
            far = now.score - threshold < (before.score - threshold) / 2
        return [text] if far else []

    def _model_changed(self, before: Model) -> list[str]:
        now = self._model
        if before.sha256 == now.sha256:
            return []
        weights = (
            f"the same weights, threshold {before.threshold:.4g} -> {now.threshold:.4g}"
            if before.weights_sha256 == now.weights_sha256
            else f"weights sha256 {before.weights_sha256[:12]} -> {now.weights_sha256[:12]}"
        )
        return [
            f"model file changed: {now.file} sha256 {before.sha256[:12]} -> {now.sha256[:12]}, {weights}; "
            f"if that was meant, delete {self._file} to record anew"
        ]

    def _part(self, name: str) -> _Judged:
        """Judge one stored picture. Raises GoldenError."""
        path = self._folder / name
        try:
            digest = sha256(path) if path.is_file() else ""
            picture = self._detector.read(path)
            (result,) = self._detector.judge([self._detector.prepare(picture.rgb, picture.doubt)])
            fitted = Fitted.of(picture.rgb, self._detector.card.input)
        except (ImageError, OSError) as e:
            raise GoldenError(e if str(path) in str(e) else f"{path}: {e}") from e
        if result.verdict is Verdict.ERROR or not math.isfinite(result.score):
            raise GoldenError(f"{path}: expected a score, got {result.error}")
        height, width = picture.rgb.shape[:2]
        part = Part(digest, width, height, result.score, str(self._says(result)), fitted.view())
        return part, fitted

    def _says(self, result: Result) -> Verdict:
        """The verdict by the threshold alone: a known part needs no review."""
        if result.verdict is Verdict.ERROR:
            return result.verdict
        return decide(self._detector.card.calibration, result.score, doubt=result.doubt)

    def _wrong(self, name: str, part: Part) -> str | None:
        """The line if a stored picture is not judged as its folder says."""
        kind = name.partition("/")[0]
        if part.verdict == EXPECTED[kind]:
            return None
        threshold = self._model.threshold
        return f"{name}: known {kind}, judged {part.verdict}: score {part.score:.4g}, threshold {threshold:.4g}"

    def _pictures(self) -> set[str]:
        """The names of the stored pictures. Raises GoldenError: folders that cannot be read."""
        return {path.relative_to(self._folder).as_posix() for kind in EXPECTED for path in _images(self._folder / kind)}

    def _fresh(self) -> tuple[list[_Fresh], list[str]]:
        """New pictures in fresh/, and lines on those that cannot be read."""
        found: list[_Fresh] = []
        wrong: list[str] = []
        stored = {str(Path(name).with_suffix("")): name for name in self._pictures()}
        for kind in EXPECTED:
            for path in _images(self._folder / FRESH / kind):
                below = path.relative_to(self._folder / FRESH)
                try:
                    name = f"{FRESH}/{below.as_posix()}, taken {_ago(time.time() - path.stat().st_mtime)} ago"
                    picture = self._detector.read(path)
                    found.append(_Fresh(name, kind, picture.rgb, stored.get(str(below.with_suffix("")))))
                    wrong += [f"camera changed: {name}: {picture.doubt}"] if picture.doubt else []
                except (ImageError, OSError) as e:
                    wrong.append(str(e))
        return found, wrong


def _unchanged(before: Part | None, now: Part) -> bool:
    return before is not None and before.sha256 == now.sha256


def _nearest(picture: Fitted, references: dict[str, Fitted]) -> tuple[str, Shift | None]:
    """The stored picture most like a fresh one, and how far it has moved."""
    shifts = {name: shift(reference, picture) for name, reference in references.items()}
    return max(shifts.items(), key=lambda item: item[1].likeness if item[1] else -2.0)


def _position(moved: Shift | None, reference: Part, picture: Fitted) -> list[str]:
    if moved is None:
        blind = reference.view.contrast >= FLAT and float(picture.grey.std()) < FLAT
        return ["nothing to see in it"] if blind else []
    if moved.likeness < ALIKE:
        return [f"another part, or a turned one (likeness {moved.likeness:.2f}, at least {ALIKE:g} expected)"]
    height, width = picture.grey.shape
    longer = max(width * picture.scale[0], height * picture.scale[1])
    if math.hypot(moved.x, moved.y) > MOST_SHIFT * longer:
        return [f"shifted by {moved.x:.0f}, {moved.y:.0f} px"]
    return []


def _images(folder: Path) -> list[Path]:
    """The pictures directly in a folder, by name; none where there is no folder."""
    try:
        return sorted(p for p in folder.iterdir() if is_image(p) and p.is_file())
    except FileNotFoundError:
        return []
    except OSError as e:
        raise GoldenError(f"{folder}: expected a readable folder of pictures, got {e.strerror}") from e


def _software_changed(record: Record) -> str:
    """Which versions are other than recorded."""
    now = software()
    found = [
        f"{name} {record.software.get(name, 'absent')} -> {now.get(name, 'absent')}"
        for name in sorted(record.software.keys() | now.keys())
        if record.software.get(name) != now.get(name)
    ]
    return f"the software changed: {', '.join(found)}" if found else "and so is the software; is the machine at fault?"


def _ago(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
