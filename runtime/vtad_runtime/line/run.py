"""One run, whatever its source: judged to its end, summed up, and how it ended as an exit code."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial

from vtad_runtime.contract.command_line.stopping import LAST_S, Stop, stoppable
from vtad_runtime.contract.errors import NOT_JUDGED, NOT_WRITTEN
from vtad_runtime.contract.json_values import finite
from vtad_runtime.contract.log import event, logging_to, note, warning
from vtad_runtime.line import wiring
from vtad_runtime.line.build import Line, build
from vtad_runtime.line.loop import judge_frames
from vtad_runtime.line.options import RunOptions
from vtad_runtime.line.summary import Summary
from vtad_runtime.outputs.results_folder import SinkError
from vtad_runtime.sources.folder import SourceError
from vtad_runtime.verdict.detector import Detector
from vtad_runtime.verdict.judge import Rules
from vtad_runtime.verdict.judgement import Output
from vtad_runtime.verdict.verdict import Verdict

ALL_OK, SOME_NG = 0, 1  # exit codes


def command(options: RunOptions) -> int:
    """What vtad-run does; its exit code. A signal is how an endless source is meant to end; it cuts files short."""
    with logging_to(json_lines=options.log_json, notes="stderr" if options.json == "-" else "stdout"):
        if options.address is None:
            from vtad_runtime.line.golden_run import check_alone

            return check_alone(options)
        with stoppable(partial(_end_at_once, options)) as stop:
            summary = run(options, stop, console=True)
    if stop.signal is not None:
        return _code_of(stop.signal, options)
    if summary.unwritten:
        return NOT_WRITTEN
    if summary.verdicts[Verdict.ERROR]:
        return NOT_JUDGED
    return ALL_OK if summary.verdicts[Verdict.OK] == summary.rows else SOME_NG


def _code_of(number: int, options: RunOptions) -> int:
    """The exit code of a run that a signal ended."""
    return ALL_OK if options.source.endless else 128 + number


def _end_at_once(options: RunOptions, number: int) -> None:
    """End the process, whatever hangs: rows on disk are whole, and the journal of a hot folder knows what has none."""
    said = f"not ended {LAST_S:.0f} s after the signal: ended at once; what was in hand has no row, there may be no summary.json"
    warning("stopped_late", said)
    os._exit(_code_of(number, options))


def run(
    options: RunOptions,
    stop: Callable[[], bool],
    *,
    detector: Detector | None = None,
    outputs: Sequence[Output] = (),
    console: bool = False,
) -> Summary:
    """Judge until the source ends, `stop()` or --max-frames; what was counted. Raises VtadError.

    `detector`: one that is open already, in place of --model. `outputs` get each judgement after its row is on disk.
    `console`: frames, or the progress over files, are shown to people.
    """
    options = wiring.with_logins(options)
    source = options.source
    prove: Callable[[], bool] | None = None
    if detector is None:
        detector, prove = wiring.open_detector(options)
    rules = wiring.rules_of(options, detector.card)
    golden = None
    if options.golden is not None:
        from vtad_runtime.line.golden_run import GoldenSamples

        golden = GoldenSamples(options, detector)
    line: Line | None = None
    try:
        with ExitStack() as stack:
            judge, line = build(options, detector, rules, stack, outputs, console)
            # What may take long comes after all that may fail.
            if prove is not None and prove() and line.results is not None:
                line.results.describe(wiring.about(options, detector, rules))
            if golden is not None:
                golden.begin(line.device, line.page, stop)
            line.start()
            if line.hot is not None and isinstance(stop, Stop):
                # Whoever kills the process then kills it for no fault of a file.
                stop.at_once.append(line.hot.end_in_order)
            _say_start(options, line, detector, rules)
            turns = [line.window.draw] if line.window is not None else []
            if golden is not None:
                turns.append(partial(golden.turn, line.silence))
            judge_frames(
                line.frames,
                judge,
                line.writer,
                lambda: stop() or (line.window is not None and line.window.closed),
                silence=line.silence,
                batch=line.batch,
                max_frames=options.max_frames,
                every_turn=turns,
            )
    except SinkError as e:
        if line is None:
            raise
        if line.results is None or line.results.folder.is_dir():  # it is gone where it holds no row
            with suppress(SinkError):  # a full disk may still take a small file; what was counted is said in any case
                _end(options, line, detector, rules, stop())
        raise SinkError(_with_counts(e, line), e.exit_code) from e
    if line.summary.rows == 0 and not source.endless and not stop():
        raise SourceError(f"{source.name}: expected frames, got none")
    _end(options, line, detector, rules, stop())
    return line.summary


def _say_start(options: RunOptions, line: Line, detector: Detector, rules: Rules) -> None:
    folder = str(line.results.folder) if line.results else None
    goes = f", results go to {folder}" if folder else ""
    unsure = "" if rules.unsure_from is None else f", UNSURE from {rules.unsure_from:.4g}"
    name = options.source.name
    said = f"{name}: judging{unsure}{goes}"
    event("started", said, source=name, model=str(detector.path), results=folder)


def _with_counts(error: SinkError, line: Line) -> str:
    """The error that ended a run, and of how many pictures there is no whole result."""
    written, unwritten = line.writer.written, line.writer.unwritten
    if line.files is not None:
        return f"{error}; {written} of {line.files} files have a whole result, {line.files - written} have none"
    return (
        f"{error}; {written} frames have a whole result, {unwritten} that were judged have none"
        if unwritten
        else str(error)
    )


def _end(options: RunOptions, line: Line, detector: Detector, rules: Rules, stopped: bool) -> None:
    """Say what was counted, and write it. Raises SinkError."""
    line.summary.unwritten = line.writer.unwritten
    if line.results is not None:
        line.summary.pictures_left_out = line.results.pictures_left_out
        line.summary.unwritten += line.results.pictures_unwritten
    _say_end(options, line, stopped)
    if line.results is not None:
        line.results.write_summary(
            {
                **wiring.model_facts(detector),
                "source": options.source.name,
                "unsure_from": finite(rules.unsure_from),
                "stopped": stopped,
                **line.summary.to_dict(),
                "drift": {name: finite(value) for name, value in line.drift.state().items()},
                "outputs": wiring.states(line.receivers),
            }
        )


def _say_end(options: RunOptions, line: Line, stopped: bool) -> None:
    """The table of a folder for people, else one line; and where the results are."""
    summary = line.summary
    if options.source.kind == "folder" and not options.log_json:
        if stopped:
            event("stopped", f"stopped after {summary.rows} of {line.files} files")
        note(summary.table())
    else:
        event("stopped", summary.line(), **summary.to_dict())
    if line.results is not None:
        note(f"results: {line.results.folder}")
