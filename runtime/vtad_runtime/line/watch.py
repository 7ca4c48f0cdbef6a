"""`watch`: a line from a program of your own, as vtad-run watches it from the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

from vtad_runtime.line.options import RunOptions
from vtad_runtime.line.run import run
from vtad_runtime.line.summary import Summary
from vtad_runtime.line.wiring import callers_of
from vtad_runtime.sources.address import parse
from vtad_runtime.verdict.detector import Detector
from vtad_runtime.verdict.judgement import Calls, Judgement

PATHS = ("roi_mask", "golden", "out", "sort_to", "write_video", "credentials")
NOT_HERE = ("address", "model", "log_json")  # your own logging set-up decides; the logger is "vtad"


def watch(
    source: int | str | Path,
    model: str | Path | bytes | Detector | None = None,
    on_result: Callable[[Judgement], None] | None = None,
    *,
    stop: Event | Callable[[], bool] | None = None,
    **options: Any,
) -> Summary:
    """Judge what a source shows, frame by frame, until it ends, `stop` is set or true, or `max_frames` are judged.

    summary = watch(0, "pill.onnx", on_result=lambda judgement: print(judgement.verdict, judgement.score), max_frames=100)

    `source` is what `vtad-run --source` takes: 0 (a camera), a stream's URL, a video, a folder, a glob or a file,
    "watch:DIR" (a hot folder). `model` is an exported file, its bytes, or an open Detector; None: the newest export below ./runs.

    `on_result` gets each judgement in order, in the thread that writes, once its row is on disk: verdict, reason, score,
    `frame.rgb` (H, W, 3), `result` with regions and maps. While it works the next frame is judged; where it is slower than the
    source, frames of a live source are dropped and counted. What it raises ends the run and is raised here.

    `options` are those of vtad-run by their long names, times in seconds: every=0.2, roi=(100, 50, 640, 480), alarm=(3, 5),
    unsure_from=1.5. Nothing is written unless `out` names a folder for results. Signals are left to the caller.

    Returns what was counted. Raises VtadError: a source that does not open, options that do not fit, results that cannot be
    written; TypeError: an option that does not exist.
    """
    known = {field.name for field in dataclasses.fields(RunOptions)} - set(NOT_HERE)
    if unknown := sorted(options.keys() - known):
        raise TypeError(f"watch() got unknown options {', '.join(unknown)}; it takes {', '.join(sorted(known))}")
    for name in PATHS:
        if options.get(name) is not None:
            options[name] = Path(options[name])
    if options.get("frame_check") is not None:
        options["frame_check"] = frozenset(options["frame_check"])
    asked = RunOptions(parse(str(source)), Path(model) if isinstance(model, str | Path) else None, **options)
    if isinstance(model, bytes):
        changed = asked.allow_changed
        model = Detector(model, asked.threads, engine=asked.engine, callers=callers_of(asked), allow_changed=changed)
    stopped: Callable[[], bool] = stop.is_set if isinstance(stop, Event) else stop or (lambda: False)
    detector = model if isinstance(model, Detector) else None
    return run(asked, stopped, detector=detector, outputs=[] if on_result is None else [Calls(on_result)])
