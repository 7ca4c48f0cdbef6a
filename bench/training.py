"""A training step of this code beside another checkout's, in turns; see `bench.training_step`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from bench.table import NotMeasured, Part, Ratio

ROUNDS = 12
STEP = Ratio(
    "pictures a second of CPU time in a training step : another checkout's, bfloat16, one thread", at_least=1.5
)


def measure(asked: argparse.Namespace) -> Iterator[tuple[Ratio, float | str]]:
    """Raises NotMeasured: no checkout was named; ImportError: no torch."""
    if asked.beside is None:
        raise NotMeasured("name a checkout of an earlier commit by --beside")
    from bench.training_step import faster, steps_beside
    from vtad.data.layout import default_data_dir

    given = ["--data", str(default_data_dir().resolve()), "--category", asked.category, "--threads", "1", "--bfloat16"]
    yield STEP, faster(steps_beside(asked.beside, given, ROUNDS))[0]


PART = Part("training", (STEP,), measure)
