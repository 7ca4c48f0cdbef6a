"""Which engine runs a model on this machine: one that judges the reference pictures in the model as torch did at its export.

What was found is kept in the user's cache folder, by model, machine and versions: the check is made once, in a process of its
own, since an engine may end the process that it runs in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from vtad_runtime.contract.card import Card, card_digest
from vtad_runtime.contract.errors import VtadError, one_line
from vtad_runtime.contract.files import replacing
from vtad_runtime.contract.log import event, warning
from vtad_runtime.contract.typed_json import WrongJson, parsed, typed
from vtad_runtime.engine.engines import AUTO, CPU, ENGINES, cache_folder, features, hash_of, processor
from vtad_runtime.engine.integrity import contents
from vtad_runtime.engine.model import ModelError, OpenModel
from vtad_runtime.engine.opening import is_package, open_model
from vtad_runtime.verdict.engine_trial import Trial

WORTH = 1.1  # times as fast as the first engine, from which another one is taken
LONGEST_S = 300.0  # that an engine may take to compile a model and to judge eight pictures
LIBRARIES = ("vtad", "onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "openvino")


def open_proven(
    model: Path | str | bytes, threads: int | None, engine: str, *, parts: int = 1, allow_changed: bool = False
) -> OpenModel:
    """Open a model by an engine that is proven here; `auto` takes the fastest of those that are installed.

    `parts`: see `open_model`. Raises ModelError: the engine is not there, or judges reference pictures otherwise.
    """
    if engine not in (*ENGINES, AUTO):
        raise ModelError(f"engine: expected one of {', '.join((AUTO, *ENGINES))}, got {engine}")
    if engine == CPU or isinstance(model, bytes) or (engine == AUTO and (is_package(model) or not others())):
        return open_model(
            model, threads, engine=CPU if engine == AUTO else engine, parts=parts, allow_changed=allow_changed
        )
    path, known = Path(model), _Known.of(Path(model), threads)
    if engine == AUTO:
        engine = _fastest(path, threads, known, allow_changed)
        return open_model(path, threads, engine=engine, parts=parts, allow_changed=allow_changed)
    if engine not in known.trials:
        open_model(path, threads, engine=engine, allow_changed=allow_changed)  # an error of it is said as it is
        known.learn([tried(path, threads, engine, allow_changed=allow_changed)])
    trial = known.trials[engine]
    if trial.ok is False:
        raise ModelError(f"{path}: engine {engine} is refused: {trial.said}; take --engine {CPU}")
    if trial.ok is None:
        warning("engine_unproven", f"{path}: engine {engine} is not proven: {trial.said}")
    return open_model(path, threads, engine=engine, parts=parts, allow_changed=allow_changed)


def _fastest(model: Path, threads: int | None, known: _Known, allow_changed: bool) -> str:
    """The fastest engine that is proven; `cpu` where there is nothing to prove one by. Says which and why."""
    if first := any(name not in known.trials for name in others()):
        if open_model(model, threads, allow_changed=allow_changed).references() is None:
            return CPU
        event("engines", "trying engines once on this machine: " + ", ".join(others()))
        known.learn(tried(model, threads, name, allow_changed=allow_changed) for name in others())
    found = [known.trials[name] for name in others()]
    for trial in found:
        if first and not trial.ok:
            event("engine_refused", f"engine {trial.engine} is not taken: {trial.said}", engine=trial.engine)
    faster = {t.engine: t for t in found if t.ok and t.times_faster is not None and t.times_faster >= WORTH}
    best = max(faster.values(), key=lambda t: t.times_faster or 0.0, default=None)
    if best is None:
        if first:
            event("engine", f"engine {CPU}: no other one that is proven is faster here", engine=CPU)
        return CPU
    faster_by = f"engine {best.engine}: {best.times_faster:.1f} times as fast as {CPU} here"
    event("engine", f"{faster_by}; {best.said}" if first else faster_by, engine=best.engine)
    return best.engine


def others() -> tuple[str, ...]:
    """The engines that are installed beside the first."""
    return tuple(engine.name for engine in ENGINES.values() if engine.name != CPU and engine.installed())


def tried(model: Path, threads: int | None, engine: str, *, allow_changed: bool = False) -> Trial:
    """What an engine shows in a process of its own."""
    asked = json.dumps([str(model), threads, engine, allow_changed])
    command = [sys.executable, "-m", "vtad_runtime.verdict.engine_trial", asked]
    try:
        done = subprocess.run(command, capture_output=True, timeout=LONGEST_S, check=False)
    except subprocess.TimeoutExpired:
        return Trial(engine, False, f"it took longer than {LONGEST_S:g} s", None, None)
    except OSError as e:
        return Trial(engine, False, f"its process did not start: {one_line(e)}", None, None)
    try:
        return typed(Trial, parsed(done.stdout.splitlines()[-1] if done.stdout else b""), "trial")
    except WrongJson:
        return Trial(engine, False, f"its process ended by {_end(done.returncode)}", None, None)


def _end(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


class _Known:
    """What is known of a model's engines on this machine; kept where that can be written."""

    def __init__(self, file: Path | None) -> None:
        self.file, self.trials = file, dict[str, Trial]()
        with suppress(OSError, WrongJson):  # one that cannot be read, or is damaged, is none
            found = () if file is None else typed(tuple[Trial, ...], parsed(file.read_bytes()), "trials")
            self.trials = {trial.engine: trial for trial in found}

    @staticmethod
    def of(model: Path, threads: int | None) -> _Known:
        """Of a model that is as it was exported; of others nothing is kept."""
        try:
            found = contents(model)
            digests = Card.from_json(found.card).digests
        except VtadError:
            return _Known(None)  # opening it says what it is
        if digests is None or digests.files != found.files or digests.card != card_digest(found.card):
            return _Known(None)
        about = [found.card, processor(), features(), os.cpu_count(), threads, *map(_version, LIBRARIES)]
        folder = cache_folder("engines")
        return _Known(folder and folder / f"{hash_of(json.dumps(about))}.json")

    def learn(self, found: Iterable[Trial]) -> None:
        """Add trials."""
        self.trials |= {trial.engine: trial for trial in found}
        if self.file is not None:
            with suppress(OSError), replacing(self.file) as beside:  # a cache that cannot be written is none
                beside.write_text(json.dumps([asdict(t) for t in self.trials.values()], indent=1), encoding="utf-8")


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # it takes 15 ms, and the first engine asks for none

    try:
        return version(name)
    except PackageNotFoundError:
        return ""
