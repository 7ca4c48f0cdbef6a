"""Programs are killed by kill -9 at random moments, or meet a full disk; what was promised is checked. `make chaos`.

    python -m bench.chaos                        # 10 minutes
    python -m bench.chaos --minutes 2 --seed 1   # shorter, other moments
    python -m bench.chaos --kinds hot,train      # some kinds only
    python -m bench.chaos --seed 1 --step 17     # one step again, as a failure names it

Kinds: vtad-run on a hot folder and on a folder, vtad-calibrate, vtad-train, vtad-export, each killed and started again,
and each on a full disk (-full). Every kind comes at least once. Promises: a file is whole or a hidden part, which the next
start sweeps; rows are whole; each picture of a hot folder has one row and is sorted once; an existing model is not damaged;
a training continues to the weights of an undisturbed one; exit codes are those of --help; no traceback. A failure prints
its seed and step, keeps its folder and ends in exit code 1. The plan follows from the seed; when exactly a kill hits, from
the machine too. POSIX.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random

from .disk import can_mount
from .kinds import KINDS, Step
from .material import Material
from .promises import Broken


@dataclass
class Tally:
    """What one kind came to."""

    steps: int = 0
    kills: int = 0
    promises: int = 0
    failures: int = 0


def chaos(minutes: float, seed: int, kinds: list[str], only: int | None) -> bool:
    """Steps in turn until the time is over; whether every promise held."""
    disk = "a small tmpfs" if can_mount() else "a limit on the size of files, since nothing can be mounted here"
    print(f"seed {seed}; full disk: {disk}", flush=True)
    tallies = {name: Tally() for name in kinds}
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="vtad-chaos-") as name:
        shared = Path(name) / "material"
        shared.mkdir()
        material = Material(shared)
        for number in count() if only is None else (only,):
            if only is None and number >= len(kinds) and time.monotonic() > end:
                break
            kind = kinds[number % len(kinds)]
            step = Step(Random(f"{seed}/{number}"), Path(name) / f"{number}-{kind}", material)
            _take(step, kind, tallies[kind], f"--seed {seed} --kinds {','.join(kinds)} --step {number}")
    for kind, tally in tallies.items():
        counts = f"steps {tally.steps:>4}  kills {tally.kills:>4}  promises {tally.promises:>6}"
        print(f"{kind:<15} {counts}  failures {tally.failures}")
    return not any(tally.failures for tally in tallies.values())


def _take(step: Step, kind: str, tally: Tally, again: str) -> None:
    """One step; a failure is printed and its folder kept."""
    step.folder.mkdir()
    tally.steps += 1
    try:
        KINDS[kind](step)
    except Broken as e:
        tally.failures += 1
        kept = Path(tempfile.mkdtemp(prefix="vtad-broken-"))
        shutil.copytree(step.folder, kept, dirs_exist_ok=True)
        print(f"BROKEN {kind}: {e}\n  again: python -m bench.chaos {again}\n  its files: {kept}", flush=True)
    finally:
        tally.kills += step.kills
        tally.promises += step.promises.checked
        shutil.rmtree(step.folder, ignore_errors=True)


def _kinds(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - KINDS.keys():
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(KINDS)}, got {', '.join(sorted(unknown))}")
    return names


def main() -> None:
    """Read the options; exit code 1 when a promise is broken."""
    arguments = argparse.ArgumentParser(
        prog="python -m bench.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--minutes", type=float, default=10.0, help="%(default)s")
    arguments.add_argument("--seed", type=int, default=0, help="%(default)s")
    arguments.add_argument("--kinds", type=_kinds, default=list(KINDS), help="all by default")
    arguments.add_argument("--step", type=int, help="this one alone")
    asked = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that mounts and folders go
    sys.exit(0 if chaos(asked.minutes, asked.seed, asked.kinds, asked.step) else 1)


if __name__ == "__main__":
    main()
