"""Puts a run together: opens its source, then whatever gets its judgements."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vtad_runtime.contract.command_line.command import say
from vtad_runtime.contract.log import event, note
from vtad_runtime.line import wiring
from vtad_runtime.line.ahead import OpenedAhead
from vtad_runtime.line.loop import Frames
from vtad_runtime.line.options import RunOptions
from vtad_runtime.line.silence import Silence
from vtad_runtime.line.summary import Summary
from vtad_runtime.line.writer import WAITING, Writer
from vtad_runtime.outputs.console import FileProgress, frame_line
from vtad_runtime.outputs.events import AlarmEvents, DriftEvents
from vtad_runtime.outputs.results_folder import ResultsFolder
from vtad_runtime.sources.capture import Capture, FrameSource
from vtad_runtime.sources.files import FolderFrames
from vtad_runtime.sources.folder import SourceError
from vtad_runtime.sources.room import Room
from vtad_runtime.verdict.detector import Detector
from vtad_runtime.verdict.drift import Drift
from vtad_runtime.verdict.judge import Judge, Rules
from vtad_runtime.verdict.judgement import Calls, Judgement, Output

if TYPE_CHECKING:
    from vtad_runtime.outputs.window import Window
    from vtad_runtime.page.state import PageState
    from vtad_runtime.sources.hot_folder import HotFolder

VIDEO_FPS, FOLDER_FPS = 10.0, 2.0  # of --write-video where the source does not say
QUIET_S, QUIET_FILES_S = 3.0, 1e9  # after which the page shows no verdict as current; files may rest for days


@dataclass
class Line:
    """A run, put together."""

    frames: Frames
    files: int | None  # how many there are to judge, of a folder
    batch: int  # frames that are judged together
    silence: Silence
    writer: Writer
    summary: Summary
    drift: Drift
    results: ResultsFolder | None
    receivers: list[Output]
    page: PageState | None
    window: Window | None
    device: FrameSource | None  # a camera, a stream or a video
    hot: HotFolder | None

    def start(self) -> None:
        """Begin to read, and count the time from now. Raises SourceError."""
        self.summary.start()
        self.frames.start()


def build(
    options: RunOptions,
    detector: Detector,
    rules: Rules,
    stack: ExitStack,
    outputs: Sequence[Output] = (),
    console: bool = False,
) -> tuple[Judge, Line]:
    """The judge and the line around it, not begun yet; `stack` ends it all. What fails most often comes first.

    Raises VtadError.
    """
    source, judge = options.source, Judge(options.source.name, detector, rules, explain=options.shows_everything)
    batch, files, device, room, full_scale = 1, None, None, Room(), detector.card.input.full_scale
    frames: Capture | FolderFrames | None = None
    if source.kind == "folder":
        files, batch = wiring.find_files(options), wiring.batch_of(options)
        frames = FolderFrames(
            files.files, full_scale, wiring.geometry_of(options), judge.prepare, batch, room, wiring.readers_of(options)
        )
    elif source.kind == "watch":
        if not Path(source.where).is_dir():
            raise SourceError(f"{source.where}: expected a folder to watch, got none there; check the path")
    else:
        device = wiring.open_device(options)
        reopen = (lambda: wiring.open_device(options)) if source.live else None
        frames = Capture(source.name, device, wiring.capture_options(options, room), reopen)
        stack.callback(frames.close)
    page, window = _page(options, detector, rules, stack), _window(options, stack)
    results = wiring.open_results(options, detector, rules, files.root if files else None)
    if results is not None:
        stack.push(lambda kind, error, trace: results.discard_if_empty() if error is not None else None)

    outputs_of_run, hot = list[Output](), None  # the writer closes them
    if frames is None:
        assert results is not None  # the options say so of a hot folder
        hot = wiring.open_hot_folder(options, full_scale, results, room, stack)
        frames = Capture(source.name, hot, wiring.capture_options(options, room))
    stack.callback(frames.close)  # waits for its threads, when all is written
    silence = Silence(
        source.name,
        detector,
        (lambda reason: judge.gone(frames.last_number, reason)) if source.endless else None,
    )
    writer = stack.enter_context(Writer(outputs_of_run, results, max(WAITING, 2 * batch), silence.look))
    receivers: list[Output] = []
    for receiver in wiring.receivers(options, detector.card, _fps(options, device)):
        receivers.append(receiver)
        outputs_of_run.append(receiver)
    drift = Drift(detector.card.calibration)
    summary = Summary(files.root if files else None, results.folder if results else None)
    quiet = files is not None  # of a folder the drift is counted and not said: it need not be of one line
    if not (drift.watched or quiet):
        note("drift is not watched: the card holds no calibration scores; vtad-calibrate makes a model that does")
    outputs_of_run += [summary, DriftEvents(drift, page.set_drift if page and not quiet else None, quiet=quiet)]
    if options.alarm is not None:
        outputs_of_run.append(AlarmEvents())
    if console and files is not None:
        outputs_of_run.append(FileProgress(len(files.files)))
    elif console and not (options.json == "-" or options.log_json):
        outputs_of_run.append(Calls(lambda judgement: note(frame_line(judgement))))
    outputs_of_run += [
        output
        for output in (
            OpenedAhead(detector) if source.endless else None,
            page,
            window,
            *outputs,
            # After all others: what is noted as judged is not judged again after a kill, and nobody would hear of it.
            Calls(partial(_sort, hot)) if hot is not None else None,
            Calls(partial(_leave, room)),
        )
        if output is not None
    ]
    if page is not None:
        page.outputs = lambda: wiring.states(receivers)
    stack.callback(frames.stop)
    if hot is not None:
        stack.push(partial(_end_in_order, hot))
    return judge, Line(
        frames,
        len(files.files) if files else None,
        batch,
        silence,
        writer,
        summary,
        drift,
        results,
        receivers,
        page,
        window,
        device,
        hot,
    )


def _leave(room: Room, judgement: Judgement) -> None:
    """Let the picture that was written leave. A judgement without one has the number of the last frame, which may be in hand."""
    if judgement.frame is not None or judgement.file is not None:
        room.leave(judgement.file or judgement.number)


def _sort(hot: HotFolder, judgement: Judgement) -> None:
    """Note a file that was judged and written, so that it is never judged again, and sort it. Raises JournalError."""
    if judgement.file is not None:
        hot.done(Path(judgement.file), str(judgement.verdict), judgement.number)


def _end_in_order(hot: HotFolder, kind: object, error: BaseException | None, trace: object) -> None:
    """Before threads are waited for: whoever kills the process meanwhile kills it for no fault of a file."""
    if wiring.in_order(error):
        hot.end_in_order()


def _fps(options: RunOptions, device: FrameSource | None) -> float:
    """Of --write-video: that of the recording, else one that suits."""
    own = getattr(device, "fps", 0.0)  # of a recording
    return own or (1 / options.every if options.every else FOLDER_FPS if options.source.kind == "folder" else VIDEO_FPS)


def _page(options: RunOptions, detector: Detector, rules: Rules, stack: ExitStack) -> PageState | None:
    """Serve the live page. Raises PageError."""
    if options.live is None:
        return None
    from vtad_runtime.page.server import TOKEN, PageError, PageServer  # the extra `live`
    from vtad_runtime.page.state import PageState

    source = options.source
    rests = source.kind in ("watch", "folder")
    quiet_s = QUIET_FILES_S if rests else max(QUIET_S, 2 * (options.every or 0))
    page = PageState(
        detector.card,
        source.name,
        str(detector.path),
        quiet_s,
        rules.unsure_from,
        detector.integrity,
        max(quiet_s, rules.max_age_s or 0) if source.live else None,  # frames of a video wait as long as judging takes
    )
    given = os.environ.get(TOKEN)
    server = PageServer(page, options.live, given)
    stack.callback(server.close)
    if server.token is None:
        note(f"live page: {server.url}")
    elif given is not None:
        note(f"live page: {server.address}?token=..., with the token in {TOKEN}")
    elif not options.log_json:
        note(f"live page: {server.url}")
    elif options.json != "-":  # the log is kept, and read by many: the link goes past it
        event("live_page", f"live page: {server.address}, its link with the token is on stdout")
        say(f"live page: {server.url}")
    else:
        raise PageError(
            f"--live: expected a token in {TOKEN} with --log-json and --json -, which leave no place for a link"
        )
    return page


def _window(options: RunOptions, stack: ExitStack) -> Window | None:
    """Open the window of --show. Raises WindowError."""
    if not options.show:
        return None
    from vtad_runtime.outputs.window import Window

    window = Window()
    stack.callback(window.end)
    return window
