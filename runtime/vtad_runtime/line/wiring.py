"""The parts of a run, each built from the options: the model, the rules, what is read, what is written.

A hot folder, a video, receivers, the page and golden samples are imported where they are made: each takes 1 to 30 ms, and no
first verdict waits for what was not asked for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtad_runtime.contract.card import Card
from vtad_runtime.contract.command_line.program import stdout_is_open
from vtad_runtime.contract.disk.lock import Locked, hold_folder
from vtad_runtime.contract.errors import USAGE, VtadError
from vtad_runtime.contract.json_values import finite, iso_utc
from vtad_runtime.contract.log import note, warning
from vtad_runtime.contract.threshold.conformal import REVIEW, review_level
from vtad_runtime.engine.callers import MOST, callers_for, cores
from vtad_runtime.engine.opening import newest_model
from vtad_runtime.line.options import RunOptions
from vtad_runtime.outputs.json_lines import JsonLines
from vtad_runtime.outputs.pictures import PictureOptions
from vtad_runtime.outputs.results_folder import ResultsFolder, SinkError
from vtad_runtime.outputs.run_file import MaskFile, RunFile
from vtad_runtime.sources.capture import CaptureOptions, FrameSource
from vtad_runtime.sources.folder import RESULTS_FILE, Source, SourceError, find, say_unread
from vtad_runtime.sources.opencv_sources import Camera, Video, open_stream
from vtad_runtime.sources.room import Room
from vtad_runtime.verdict.alarm import AlarmRule
from vtad_runtime.verdict.detector import Detector
from vtad_runtime.verdict.engine_choice import EngineChoice
from vtad_runtime.verdict.geometry import Geometry
from vtad_runtime.verdict.judge import Rules
from vtad_runtime.verdict.judgement import Output
from vtad_runtime.verdict.mask import Mask
from vtad_runtime.verdict.verdict import CHECKS

if TYPE_CHECKING:
    from vtad_runtime.sources.hot_folder import HotFolder

MAX_AGE_S = 2.0  # a later verdict says nothing about the part in front of the camera
# Frame checks that are not made: a recording may stand still, and files need not come from one camera.
UNSUITED: dict[str, Set[str]] = {"folder": set(CHECKS), "watch": {"frozen", "focus"}, "video": {"frozen"}}
BATCH = 4  # pictures of a folder that are judged together, at least
AHEAD = 4  # frames decoded ahead where none may be dropped


def with_logins(options: RunOptions) -> RunOptions:
    """The options with the users and passwords of --credentials in their addresses. Raises LoginError."""
    if options.credentials is None:
        return options
    from vtad_runtime.sources.logins import LoginError, Logins

    logins, address = Logins(options.credentials), options.source
    if address.kind == "stream":
        address = dataclasses.replace(address, where=logins.put_into(address.where))
    mqtt, post = (logins.put_into(url) if url else url for url in (options.mqtt, options.post))
    if (address, mqtt, post) == (options.address, options.mqtt, options.post):
        named = ", ".join(logins.hosts) or "none"
        raise LoginError(f"--credentials: expected an entry for a host of --stream, --mqtt or --post, got {named}")
    return dataclasses.replace(options, address=address, mqtt=mqtt, post=post)


def open_detector(options: RunOptions) -> tuple[Detector, Callable[[], bool]]:
    """The named model or the newest export, and a line about it; and what lets engines prove themselves.

    That may take minutes where they were never tried, so it is called when all else is known to work; it says whether another
    engine runs the model now. Both raise ModelError.
    """
    path, callers, changed = options.model or newest_model(), callers_of(options), options.allow_changed
    choice = EngineChoice(path, options.threads, options.engine, callers=callers, allow_changed=changed)
    first = choice.first()
    detector = Detector(first)
    card = detector.card
    which = "" if options.model else ", the newest export"
    note(
        f"model: {detector.path}{which}; {card.identity.category}, {card.identity.created}, "
        f"threshold {card.calibration.threshold:.4g}, {card.input.width}x{card.input.height}"
    )
    if detector.integrity.changed:
        warning(
            "model_changed", f"{detector.path}: {detector.integrity} (--allow-changed); its proof says nothing of it"
        )

    def prove() -> bool:
        if choice.due:
            detector.run_by(choice.proven(first))
        return detector.engine != first.engine

    return detector, prove


def callers_of(options: RunOptions) -> int:
    """How many threads judge at once: one where a verdict is waited for."""
    address = options.address
    return (
        callers_for(options.threads)
        if address and address.kind == "folder" and not Path(address.where).is_file()
        else 1
    )


def batch_of(options: RunOptions) -> int:
    """Pictures of a folder that are judged together."""
    return options.batch or max(BATCH, 2 * callers_of(options))


def readers_of(options: RunOptions) -> int:
    """Threads that decode a folder; where the model has several callers, they are these."""
    return max(min(cores() // 2, MOST), callers_of(options))


def geometry_of(options: RunOptions) -> Geometry:
    """What is done to each frame first."""
    return Geometry(options.roi, options.rotate, options.flip)


def rules_of(options: RunOptions, card: Card) -> Rules:
    """What verdicts rest on. Raises VtadError: a threshold above the card's, a mask that cannot be used."""
    source, threshold, alarm = options.source, card.calibration.threshold, None
    for name, value in (("--unsure-from", options.unsure_from), ("--alarm-off", options.alarm_off)):
        if value is not None and not value <= threshold:
            raise VtadError(f"{name}: expected a score up to the threshold {threshold:.4g} on the card, got {value:g}")
    if options.alarm is not None:
        off = threshold if options.alarm_off is None else options.alarm_off
        alarm = AlarmRule(*options.alarm, on=threshold, off=off)
    asked = frozenset(CHECKS) if options.frame_check is None else options.frame_check
    return Rules(
        unsure_from=_unsure_from(options, card),
        max_age_s=options.max_age or (MAX_AGE_S if source.live else None),
        checks=asked - UNSUITED.get(source.kind, frozenset()),
        alarm=alarm,
        mask=Mask(options.roi_mask, geometry_of(options), card) if options.roi_mask else None,
    )


def _unsure_from(options: RunOptions, card: Card) -> float | None:
    """The score above which a part is UNSURE, if it is not NG."""
    share = _review(options)
    return options.unsure_from if share is None else review_level(card.calibration, share)


def _review(options: RunOptions) -> float | None:
    """The share of good pictures that may be UNSURE or NG; None where a score is given instead."""
    if options.unsure_from is not None:
        return None
    return REVIEW if options.review is None else options.review


def open_device(options: RunOptions) -> FrameSource:
    """Open a camera, a stream or a video. Raises SourceError."""
    source = options.source
    if source.kind == "camera":
        return Camera(int(source.where), options.resolution, options.fps)
    return open_stream(source.where) if source.kind == "stream" else Video(Path(source.where))


def capture_options(options: RunOptions, room: Room) -> CaptureOptions:
    """Which frames of a live source, a video or a hot folder are judged."""
    drop = options.drop or ("oldest" if options.source.live else "none")
    return CaptureOptions(drop, AHEAD if drop == "none" else 1, options.every, geometry_of(options), room)


def find_files(options: RunOptions) -> Source:
    """The files of a folder, a glob or a file, --max-frames of them at most. Raises SourceError."""
    found = find(options.source.where)
    if found.skipped:
        names = ", ".join(str(s) for s in found.skipped[:3]) + (", ..." if len(found.skipped) > 3 else "")
        note(f"left out, being masks or earlier results: {names}")
    say_unread(found.unread)
    return dataclasses.replace(found, files=found.files[: options.max_frames])


def open_hot_folder(
    options: RunOptions, full_scale: int, results: ResultsFolder, room: Room, stack: ExitStack
) -> HotFolder:
    """The watched folder with its journal, kept in --out under a name of its own. Raises VtadError."""
    from vtad_runtime.sources.hot_folder import HotFolder
    from vtad_runtime.sources.journal import Journal
    from vtad_runtime.sources.sorting import Sorter

    watched, folder = Path(options.source.where), results.folder
    try:
        lock = hold_folder(watched)
    except Locked as e:
        got = f"one in use: {e}; stop that vtad-run, or watch another folder"
        raise SourceError(f"{watched}: expected a hot folder that no other run watches, got {got}") from e
    if lock is None:
        warning("hot_folder", f"{watched}: cannot be locked; a second run on it would judge its files twice")
    else:
        stack.callback(lock.close)
    name = f"watch-{_short_hash(str(watched.resolve()))}.journal"
    sorter = Sorter(options.sort_to, watched, folder / "moves.jsonl") if options.sort_to else None
    journal = Journal(folder.parent / name, folder / RESULTS_FILE)
    stack.push(lambda kind, error, trace: journal.close(in_order=in_order(error)))
    return HotFolder(watched, journal, sorter=sorter, full_scale=full_scale, room=room)


def in_order(error: BaseException | None) -> bool:
    """Whether a run ends without a fault that one picture may have caused: by itself, by a signal, by what was said in a line."""
    return not isinstance(error, Exception) or isinstance(error, VtadError | OSError)


def open_results(options: RunOptions, detector: Detector, rules: Rules, root: Path | None) -> ResultsFolder | None:
    """The results folder of --out; `root` is that of the files, whose names its pictures take. Raises SinkError."""
    if options.out is None:
        return None
    pictures = PictureOptions(
        save=options.saved,
        view=options.view,
        suffix=".png" if options.image == "png" else ".jpg",
        originals=options.save_originals,
        root=root,
        keep=options.keep,
        reserve=root is None,
    )
    return ResultsFolder(options.out, pictures, about(options, detector, rules), options.csv_dialect or "excel")


def about(options: RunOptions, detector: Detector, rules: Rules) -> RunFile:
    """What is known of the run at its start."""
    source, mask = options.source, rules.mask
    return RunFile(
        started=iso_utc(time.time()),
        source=source.name,
        kind=source.kind,
        **model_facts(detector),
        weights_sha256=detector.card.weights_sha256,
        roi=options.roi,
        rotate=options.rotate,
        flip=options.flip,
        roi_mask=MaskFile(str(mask.path), mask.sha256) if mask else None,
        unsure_from=rules.unsure_from,
        max_age_s=rules.max_age_s,
        frame_check=tuple(sorted(rules.checks)),
        alarm=rules.alarm,
        engine=detector.engine,
        review=_review(options),
    )


def model_facts(detector: Detector) -> dict[str, Any]:
    """The model, for run.json and summary.json."""
    card = detector.card
    return {
        "model": str(detector.path),
        "category": card.identity.category,
        "created": card.identity.created,
        "threshold": finite(card.calibration.threshold),
        "model_changed": ", ".join(detector.integrity.changed) or None,
    }


def receivers(options: RunOptions, card: Card, fps: float) -> Iterator[Output]:
    """The outputs asked for besides the results folder, each made in turn. Raises VtadError."""
    if options.json == "-" and not stdout_is_open():
        raise SinkError("--json -: expected stdout to be open, got a closed one; name a file", USAGE)
    if options.json:
        yield JsonLines(sys.stdout if options.json == "-" else Path(options.json))
    if options.write_video:
        from vtad_runtime.outputs.video import VideoOutput

        yield VideoOutput(options.write_video, fps)
    if options.mqtt:
        from vtad_runtime.receivers.mqtt import MqttOutput

        yield MqttOutput(options.mqtt, _spool(options, "mqtt", options.mqtt), card=card)
    if options.post:
        from vtad_runtime.receivers.webhook import WebhookOutput

        yield WebhookOutput(options.post, _spool(options, "webhook", options.post), card=card)


def _spool(options: RunOptions, kind: str, url: str) -> Path:
    """Where what a receiver did not take waits: of this source and receiver, kept from run to run."""
    return (options.out or Path()) / "spool" / f"{kind}-{_short_hash(f'{url} {options.source.key}')}"


def states(outputs: list[Output]) -> list[dict[str, Any]]:
    """How the outputs to others are doing, of those that can say."""
    return [output.state() for output in outputs if hasattr(output, "state")]


def _short_hash(text: str) -> str:
    """Eight characters to tell names apart."""
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:8]
