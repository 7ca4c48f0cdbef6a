"""Which engine runs a model on this machine: one that judges the reference pictures in the model as torch did at its export.

What was found is kept in the user's cache folder, by model, machine and versions: the check is made once, in a process of its
own, since an engine may end the process that it runs in.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from vtad_runtime.contract.card import Card, card_digest
from vtad_runtime.contract.disk.files import replacing
from vtad_runtime.contract.errors import STOPPED, VtadError, one_line
from vtad_runtime.contract.log import event, warning
from vtad_runtime.contract.typed_json import WrongJson, parsed, typed
from vtad_runtime.engine.engines import AUTO, CPU, ENGINES, cache_folder, devices, features, hash_of, processor
from vtad_runtime.engine.integrity import contents
from vtad_runtime.engine.model import ModelError, OpenModel
from vtad_runtime.engine.opening import is_package, open_model

WORTH = 1.1  # times as fast as the first engine, from which another one is taken
LONGEST_S = 300.0  # that an engine may take to compile a model and to judge eight pictures
# Exit codes after what a person or a service manager sends; the last is that of Windows.
STOPPED_BY = (-signal.SIGINT, -signal.SIGTERM, 0xC000013A)
KILLED = -9  # by whom is not known: where memory is short, by the system
LIBRARIES = ("vtad", "onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "openvino")


@dataclass(frozen=True)
class Trial:
    """What an engine showed, see `engine_trial`."""

    engine: str
    ok: bool | None  # None: there are no reference pictures to prove it by
    said: str  # one line
    ms: float | None  # of the verdict, a picture, median; None: it does not run
    times_faster: float | None  # than `cpu`, by runs taken in turns
    lasting: bool = True  # whether it says something of the engine, and not of the moment


def open_proven(
    model: Path | str | bytes, threads: int | None, engine: str, *, callers: int = 1, allow_changed: bool = False
) -> OpenModel:
    """Open a model by an engine that is proven here; `auto` takes the fastest of those that are installed.

    `callers`: see `open_model`. Raises ModelError: the engine is not there, or judges reference pictures otherwise.
    """
    return EngineChoice(model, threads, engine, callers=callers, allow_changed=allow_changed).proven()


class EngineChoice:
    """A model, and which engine is to run it. To try engines takes up to minutes, so that is asked for apart from the rest."""

    def __init__(
        self,
        model: Path | str | bytes,
        threads: int | None,
        engine: str,
        *,
        callers: int = 1,
        allow_changed: bool = False,
    ) -> None:
        """See `open_proven`. Nothing is opened yet, and nothing tried. Raises ModelError: there is no such engine."""
        if engine not in (*ENGINES, AUTO):
            raise ModelError(f"engine: expected one of {', '.join((AUTO, *ENGINES))}, got {engine}")
        self._model, self._threads, self._callers, self._allow_changed = model, threads, callers, allow_changed
        self._engine, self._known, self._due = engine, _Known(None), tuple[str, ...]()
        self._stopped = ""  # the engine whose trial was stopped by Ctrl-C or SIGTERM: nothing is known of it
        if isinstance(model, bytes) or engine == CPU or (engine == AUTO and (is_package(model) or not others())):
            self._engine = CPU if engine == AUTO else engine
            return
        self._known = _Known.of(Path(model), threads, callers)
        asked = others() if engine == AUTO else (engine,)
        if any(name not in self._known.trials for name in asked):
            self._due = asked

    @property
    def due(self) -> bool:
        """Whether engines have to be tried first."""
        return bool(self._due)

    def first(self) -> OpenModel:
        """The model as it opens without trying engines: by `cpu` where the fastest is not known yet. Raises ModelError."""
        return self._opened(CPU if self._engine == AUTO else self._engine) if self._due else self.proven()

    def proven(self, first: OpenModel | None = None) -> OpenModel:
        """The model by the engine that was asked for, or by the fastest; what is due is tried. Raises ModelError.

        `first`: what `first` gave; it is given again where its engine is the one.
        """
        if self._due:
            first = first or self.first()
        engine = self._fastest(first) if self._engine == AUTO else self._asked()
        if first is not None and first.engine == engine:
            return first
        try:
            return self._opened(engine)
        except ModelError as e:  # a device that was there when it was tried
            if self._engine != AUTO or engine == CPU:
                raise
            warning("engine_refused", f"engine {engine} is not taken: {e}", engine=engine)
            self._known.forget(engine)
            return self.proven(first)

    def _asked(self) -> str:
        """The engine that was asked for, which the reference pictures must not speak against. Raises ModelError."""
        self._try()
        if self._stopped:
            raise ModelError(f"{self._model!s}: engine {self._stopped} was stopped while it was tried", STOPPED)
        if trial := self._known.trials.get(self._engine):
            if trial.ok is False:
                raise ModelError(
                    f"{self._model!s}: engine {trial.engine} is refused: {trial.said}; take --engine {CPU}"
                )
            if trial.ok is None:
                warning("engine_unproven", f"{self._model!s}: engine {trial.engine} is not proven: {trial.said}")
        return self._engine

    def _fastest(self, first: OpenModel | None) -> str:
        """The fastest engine that is proven; `cpu` where there is nothing to prove one by. Says which and why."""
        if new := bool(self._due):
            if first is None or first.references() is None:
                return CPU
            event("engines", "trying engines once on this machine: " + ", ".join(self._due))
            self._try()
        if self._stopped:
            event("engine", f"engine {CPU}: the trial of {self._stopped} was stopped", engine=CPU)
            return CPU
        found = [self._known.trials[name] for name in others() if name in self._known.trials]
        for trial in found:
            if new and not trial.ok:
                event("engine_refused", f"engine {trial.engine} is not taken: {trial.said}", engine=trial.engine)
        faster = {t.engine: t for t in found if t.ok and t.times_faster is not None and t.times_faster >= WORTH}
        best = max(faster.values(), key=lambda t: t.times_faster or 0.0, default=None)
        if best is None:
            if new:
                event("engine", f"engine {CPU}: no other one that is proven is faster here", engine=CPU)
            return CPU
        faster_by = f"engine {best.engine}: {best.times_faster:.1f} times as fast as {CPU} here"
        event("engine", f"{faster_by}; {best.said}" if new else faster_by, engine=best.engine)
        return best.engine

    def _try(self) -> None:
        """Try what is due, until a signal stops it."""
        due, self._due = self._due, ()
        for name in due:
            path, changed = Path(str(self._model)), self._allow_changed  # of bytes no engine is due
            trial = tried(path, self._threads, name, callers=self._callers, allow_changed=changed)
            if trial is None:
                self._stopped = name
                return
            self._known.learn(trial)

    def _opened(self, engine: str) -> OpenModel:
        return open_model(
            self._model, self._threads, engine=engine, callers=self._callers, allow_changed=self._allow_changed
        )


def others() -> tuple[str, ...]:
    """The engines that are installed beside the first."""
    return tuple(engine.name for engine in ENGINES.values() if engine.name != CPU and engine.installed())


def tried(
    model: Path, threads: int | None, engine: str, *, callers: int = 1, allow_changed: bool = False
) -> Trial | None:
    """What an engine shows in a process of its own; None where a signal stopped that, as Ctrl-C stops all of a terminal.

    It ends with this process: its stdin is a pipe that is open as long.
    """
    import subprocess  # it takes 2 ms, and the first engine is not tried

    asked = json.dumps([str(model), threads, engine, callers, allow_changed])
    command = [sys.executable, "-m", "vtad_runtime.verdict.engine_trial", asked]
    theirs, ours = os.pipe()
    try:
        done = subprocess.run(command, stdin=theirs, capture_output=True, timeout=LONGEST_S, check=False)
    except subprocess.TimeoutExpired:
        return Trial(engine, False, f"it took longer than {LONGEST_S:g} s", None, None)
    except OSError as e:
        return Trial(engine, False, f"its process did not start: {one_line(e)}", None, None, lasting=False)
    finally:
        os.close(theirs)
        os.close(ours)
    if done.returncode in STOPPED_BY:
        return None
    try:
        return typed(Trial, parsed(done.stdout.splitlines()[-1] if done.stdout else b""), "trial")
    except WrongJson:
        lasting = done.returncode != KILLED
        return Trial(engine, False, f"its process ended by {_end(done.returncode)}", None, None, lasting)


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
    def of(model: Path, threads: int | None, callers: int) -> _Known:
        """Of a model that is as it was exported; of others nothing is kept."""
        try:
            found = contents(model)
            digests = Card.from_json(found.card).digests
        except VtadError:
            return _Known(None)  # opening it says what it is
        if digests is None or digests.files != found.files or digests.card != card_digest(found.card):
            return _Known(None)
        about = [
            found.card,
            processor(),
            features(),
            devices(),
            os.cpu_count(),
            threads,
            callers,
            *map(_version, LIBRARIES),
        ]
        folder = cache_folder("engines")
        return _Known(folder and folder / f"{hash_of(json.dumps(about))}.json")

    def learn(self, trial: Trial) -> None:
        """Add a trial."""
        self.trials[trial.engine] = trial
        self._write()

    def forget(self, engine: str) -> None:
        """An engine is to be tried anew at the next start."""
        del self.trials[engine]
        self._write()

    def _write(self) -> None:
        if self.file is not None:
            with suppress(OSError), replacing(self.file) as beside:  # a cache that cannot be written is none
                kept = [asdict(trial) for trial in self.trials.values() if trial.lasting]
                beside.write_text(json.dumps(kept, indent=1), encoding="utf-8")


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # it takes 15 ms, and the first engine asks for none

    try:
        return version(name)
    except PackageNotFoundError:
        return ""
