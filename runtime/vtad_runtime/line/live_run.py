"""`vtad-run` on a camera, a stream, a video or a hot folder: builds the run from its options, and says how it ended."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtad_runtime.contract.errors import NOT_WRITTEN, USAGE, VtadError, disk_full
from vtad_runtime.contract.log import event, note
from vtad_runtime.line import golden_run, wiring
from vtad_runtime.line.options import RunOptions
from vtad_runtime.sources.address import Address

if TYPE_CHECKING:
    from typing import Literal

    import numpy as np
    from numpy.typing import NDArray

    from vtad_runtime.contract.stopping import Stop
    from vtad_runtime.line.live import Rules, Writer
    from vtad_runtime.line.summary import LiveSummary
    from vtad_runtime.outputs.records import Records
    from vtad_runtime.outputs.window import Window
    from vtad_runtime.page.state import PageState
    from vtad_runtime.sources.capture import Capture, CaptureOptions, FrameSource
    from vtad_runtime.sources.hot_folder import HotFolder
    from vtad_runtime.verdict.detector import Detector
    from vtad_runtime.verdict.drift import Drift
    from vtad_runtime.verdict.judgement import Judgement, Output

    Suffix = Literal[".jpg", ".png"]

ALL_OK, SOME_NG, NOT_JUDGED = 0, 1, 3
QUIET_S, QUIET_FOLDER_S = 3.0, 1e9  # after which the page shows no verdict as current; a hot folder may rest for days
MAX_AGE_S = 2.0  # a later verdict says nothing about the part in front of the camera
AHEAD = 4  # frames decoded ahead where none may be dropped
VIDEO_FPS = 10.0  # of --write-video where the source does not say


@dataclass
class _Run:
    """A run, put together."""

    capture: Capture
    writer: Writer
    records: Records
    summary: LiveSummary
    outputs: list[Output]
    drift: Drift
    page: PageState | None
    window: Window | None


def run_live(options: RunOptions) -> int:
    """Judge until the source ends, a signal or --max-frames; the exit code. Raises VtadError."""
    from vtad_runtime.contract.stopping import stoppable
    from vtad_runtime.engine.model import ModelError
    from vtad_runtime.line.live import Judge, judge_source
    from vtad_runtime.outputs.results_folder import SinkError
    from vtad_runtime.sources.folder import SourceError
    from vtad_runtime.sources.journal import JournalError

    address = _address(options)
    detector = wiring.open_detector(options)
    judge = Judge(address.name, detector, _rules(options, detector))
    try:
        with stoppable() as stop:
            golden = golden_run.checked(options, detector, _golden_frame(options, stop))
            with ExitStack() as stack:
                run = _build(options, detector, stack)
                stack.enter_context(run.capture)
                ends = _ends(stop, run.window)
                turns = _turns(options, golden, run)
                judge_source(run.capture, judge, run.writer, ends, options.max_frames, turns)
            if run.summary.rows == 0 and not address.endless and not stop():
                raise SourceError(f"{address.name}: expected frames, got none")
            run.records.write_summary(_summary(options, detector, run, stop))
    except SourceError as e:
        raise VtadError(e, USAGE) from e
    except (SinkError, JournalError) as e:
        raise VtadError(e, NOT_WRITTEN) from e
    except ModelError as e:
        raise VtadError(e, NOT_JUDGED) from e
    event("stopped", run.summary.line(), **run.summary.to_dict())
    note(f"results: {run.records.folder}")
    return _exit_code(address, run.summary, stop)


def _build(options: RunOptions, detector: Detector, stack: ExitStack) -> _Run:
    """Open the source, then whatever gets its judgements; `stack` ends it all. What fails most often comes first."""
    from vtad_runtime.line.live import Writer
    from vtad_runtime.line.summary import LiveSummary
    from vtad_runtime.outputs.tellers import AlarmEvents, DriftEvents, FrameLines
    from vtad_runtime.sources.capture import Capture
    from vtad_runtime.verdict.drift import Drift

    address, card = _address(options), detector.card
    guard = stack.enter_context(ExitStack())  # frees what the threads do not own yet
    source = None if address.kind == "watch" else _open(address, options)
    if source is not None:
        guard.callback(source.close)
    elif not Path(address.where).is_dir():
        raise VtadError(f"{address.where}: expected a folder to watch, got none there; check the path", USAGE)
    fps = getattr(source, "fps", 0.0) or (1 / options.every if options.every else VIDEO_FPS)
    page = _page(options, detector, stack)
    window = _window(options, stack)
    folder = _new_folder(options)
    records = _records(options, folder)
    stack.push(lambda kind, error, trace: records.discard_if_empty() if error is not None else None)
    guard.callback(records.close)
    hot = _hot_folder(options, folder, stack) if source is None else None
    shared = wiring.shared_outputs(options, card, address.name, fps)
    summary, drift = LiveSummary(), Drift(card.calibration)
    if not drift.watched:
        note("drift is not watched: the card holds no calibration scores; vtad-calibrate makes a model that does")
    outputs: list[Output] = [records]
    if hot is not None:
        outputs.append(_Judged(hot))  # after the row is written
    outputs += [*shared, summary, DriftEvents(drift, page.set_drift if page else _nothing)]
    if options.alarm is not None:
        outputs.append(AlarmEvents())
    if not (options.json == "-" or options.log_json):
        outputs.append(FrameLines())
    outputs += [output for output in (page, window) if output is not None]
    if page is not None:
        page.set_outputs(lambda: wiring.states(shared))
    writer = stack.enter_context(Writer(outputs))
    reopen = (lambda: _open(address, options)) if address.live else None
    capture = Capture(address.name, source or _watched(hot), _capture_options(options), reopen)
    guard.pop_all()
    started = {"source": address.name, "model": str(detector.path), "results": str(folder)}
    event("started", f"{address.name}: judging, results go to {folder}", **started)
    return _Run(capture, writer, records, summary, shared, drift, page, window)


class _Judged:
    """An output that tells the hot folder what was judged and written, so that it is never judged again."""

    def __init__(self, hot: HotFolder) -> None:
        self._hot = hot

    def write(self, judgement: Judgement) -> None:
        """Note the file in the journal and sort it. Raises JournalError."""
        path = judgement.frame.path if judgement.frame else judgement.file
        if path is not None:
            self._hot.done(Path(path), str(judgement.verdict))

    def close(self) -> None:
        """The journal is closed after the last row."""


def _address(options: RunOptions) -> Address:
    assert options.address is not None  # the command line sees to it
    return options.address


def _open(address: Address, options: RunOptions) -> FrameSource:
    """Open a camera, a stream or a video. Raises SourceError."""
    from vtad_runtime.sources.opencv_sources import Camera, CameraMode, Video, open_stream

    if address.kind == "camera":
        return Camera(int(address.where), CameraMode(options.resolution, options.fps))
    return open_stream(address.where) if address.kind == "stream" else Video(Path(address.where))


def _golden_frame(options: RunOptions, stop: Stop) -> NDArray[np.uint8] | None:
    """The frame that --golden-frame asks for. Raises VtadError, SourceError."""
    if not options.golden_frame:
        return None
    source = _open(_address(options), options)
    try:
        return golden_run.part_before(source, wiring.geometry_of(options).apply, stop)
    finally:
        source.close()


def _watched(hot: HotFolder | None) -> FrameSource:
    from vtad_runtime.sources.opencv_sources import WatchedFolder

    assert hot is not None
    return WatchedFolder(hot)


def _capture_options(options: RunOptions) -> CaptureOptions:
    from vtad_runtime.sources.capture import CaptureOptions

    drop = options.drop or ("oldest" if _address(options).live else "none")
    return CaptureOptions(drop, AHEAD if drop == "none" else 1, options.every, wiring.geometry_of(options))


def _rules(options: RunOptions, detector: Detector) -> Rules:
    """What verdicts rest on. Raises VtadError."""
    from vtad_runtime.line.live import Rules
    from vtad_runtime.verdict.alarm import Alarm, AlarmRule
    from vtad_runtime.verdict.frame_check import FrameChecks

    address, threshold, alarm = _address(options), detector.card.calibration.threshold, None
    if options.alarm is not None:
        off = threshold if options.alarm_off is None else options.alarm_off
        alarm = Alarm(AlarmRule(*options.alarm, on=threshold, off=off))
    checks = options.frame_check
    if not address.live:
        checks -= {"frozen"}  # a recording may stand still
    if address.kind == "watch":
        checks -= {"focus"}  # files need not come from one camera
    return Rules(
        max_age_s=options.max_age or (MAX_AGE_S if address.live else None),
        unsure_from=options.unsure_from,
        checks=FrameChecks(checks) if checks else None,
        alarm=alarm,
        mask=wiring.mask_of(options, detector.card),
    )


def _page(options: RunOptions, detector: Detector, stack: ExitStack) -> PageState | None:
    """Serve the live page. Raises VtadError."""
    if options.live is None:
        return None
    from vtad_runtime.page.server import PageError, PageServer
    from vtad_runtime.page.state import PageState

    address = _address(options)
    quiet_s = QUIET_FOLDER_S if address.kind == "watch" else max(QUIET_S, 2 * (options.every or 0))
    page = PageState(detector.card, address.name, str(detector.path), quiet_s)
    try:
        server = PageServer(page, options.live)
        server.start()
    except PageError as e:
        raise VtadError(e, USAGE) from e
    stack.callback(server.close)
    note(f"live page: {server.url}")
    return page


def _window(options: RunOptions, stack: ExitStack) -> Window | None:
    """Open the window of --show. Raises VtadError."""
    if not options.show:
        return None
    from vtad_runtime.outputs.window import Window, WindowError

    try:
        window = Window()
    except WindowError as e:
        raise VtadError(e, USAGE) from e
    stack.callback(window.end)
    return window


def _new_folder(options: RunOptions) -> Path:
    """A results folder of its own. Raises VtadError."""
    from vtad_runtime.outputs.results_folder import next_folder, unwritable

    try:
        return next_folder(options.out)
    except OSError as e:
        raise VtadError(unwritable(options.out, e), NOT_WRITTEN if disk_full(e) else USAGE) from e


def _records(options: RunOptions, folder: Path) -> Records:
    """What writes into the results folder. Raises SinkError."""
    from vtad_runtime.outputs.pictures import PictureWriter
    from vtad_runtime.outputs.records import Records
    from vtad_runtime.outputs.results_folder import failed
    from vtad_runtime.outputs.retention import Retention

    try:
        retention = Retention(folder, options.keep)
    except OSError as e:
        raise failed(folder, e) from e
    suffix: Suffix = ".png" if options.image == "png" else ".jpg"
    save = options.save or "ng"
    return Records(folder, PictureWriter(folder, save, options.view, suffix, retention, options.save_originals))


def _hot_folder(options: RunOptions, folder: Path, stack: ExitStack) -> HotFolder:
    """The watched folder with its journal, kept in --out under a name of its own. Raises VtadError, SourceError."""
    from vtad_runtime.sources.folder import RESULTS_FILE
    from vtad_runtime.sources.hot_folder import HotFolder
    from vtad_runtime.sources.journal import Journal, JournalError
    from vtad_runtime.sources.sorting import Sorter, SortError

    watched = Path(_address(options).where)
    name = f"watch-{wiring.short_hash(str(watched.resolve()))}.journal"
    try:
        sorter = Sorter(options.sort_to, watched, folder / "moves.jsonl") if options.sort_to else None
        journal = Journal(options.out / name, folder / RESULTS_FILE)
    except (JournalError, SortError) as e:
        raise VtadError(e, USAGE) from e
    stack.callback(journal.close)
    return HotFolder(watched, journal, sorter=sorter)


def _ends(stop: Stop, window: Window | None) -> Callable[[], bool]:
    """Whether a signal came or the window was closed."""
    return stop if window is None else lambda: stop() or window.closed


def _turns(options: RunOptions, golden: golden_run.Checked | None, run: _Run) -> list[Callable[[], None]]:
    """What the main thread does between frames."""
    turns: list[Callable[[], None]] = []
    if run.window is not None:
        turns.append(run.window.draw)
    if golden is not None:
        samples, report = golden
        golden_run.show(run.page, report.ok, report.lines)
        if options.golden_every is not None:
            turns.append(golden_run.GoldenTurn(samples, options.golden_every, run.page))
    return turns


def _nothing(_: str | None) -> None:
    """No page shows it."""


def _summary(options: RunOptions, detector: Detector, run: _Run, stop: Stop) -> dict[str, Any]:
    """summary.json."""
    from vtad_runtime.contract.json_values import finite

    card = detector.card
    return {
        "model": str(detector.path),
        "category": card.identity.category,
        "created": card.identity.created,
        "threshold": card.calibration.threshold,
        "source": _address(options).name,
        "stopped": stop(),
        **run.summary.to_dict(),
        "drift": {name: finite(value) for name, value in run.drift.state().items()},
        "outputs": wiring.states(run.outputs),
    }


def _exit_code(address: Address, summary: LiveSummary, stop: Stop) -> int:
    """A signal is how an endless source is meant to end; it cuts a recording short."""
    from vtad_runtime.verdict.verdict import Verdict

    if stop.signal is not None:
        return ALL_OK if address.endless else 128 + stop.signal
    if summary.total[Verdict.ERROR]:
        return NOT_JUDGED
    return ALL_OK if summary.total[Verdict.OK] == summary.rows else SOME_NG
