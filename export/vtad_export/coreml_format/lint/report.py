"""The advisory report on one program. "Likely eligible" is all that rules can say; only a device decides (--device-check)."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

from vtad_export.coreml_format.lint.generations import GENERATIONS
from vtad_export.coreml_format.lint.rules import RULES, Checker, Effect
from vtad_export.coreml_format.lint.segments import segments
from vtad_export.coreml_format.lint.sources import SOURCES
from vtad_export.coreml_format.lint.work import flops, padding, taken, traffic
from vtad_export.coreml_format.mlpackage import Operation, Program

COLUMNS = 116
LEAST = 0.005  # of the activation bytes: padding below that is not worth a line
_SAID: dict[Effect, str] = {
    "elsewhere": "likely elsewhere",
    "slower": "likely slower",
    "no faster": "likely no faster",
    "infinite": "likely infinite",
    "inexact": "likely inexact",
    "doubtful": "in doubt",
}


@dataclass(frozen=True)
class Finding:
    """One rule and the operations it holds against, on some generations."""

    rule: str
    effect: Effect
    chips: str  # "all chips", or the generations that it holds on
    operations: int
    flops_share: float  # 0..1
    bytes_share: float  # 0..1, of the activations that operations read and write
    example: str  # an operation, as in the program
    reason: str
    advice: str  # "" where there is nothing to do
    sources: str
    differs: str  # a source that says otherwise

    def line(self) -> str:
        """The finding in one sentence."""
        said = f"{self.rule}: {self.operations} {_SAID[self.effect]} on {self.chips}, {self.flops_share:.1%} of FLOPs, "
        said += f"{self.bytes_share:.1%} of bytes: {self.reason}"
        differs = f"; otherwise {self.differs}" if self.differs else ""
        return f"{said}{'; ' if self.advice else ''}{self.advice} [{self.sources}{differs}]"


@dataclass(frozen=True)
class Share:
    """What one generation likely runs on its engine."""

    chips: str
    likely_eligible: int  # operations
    flops_share: float  # 0..1, of those
    bytes_share: float  # 0..1, of the activations that those read and write
    segments: int  # times that the engine is called for one picture, at least
    handed_over_mb: float  # MB a picture, to the engine and from it
    elsewhere: tuple[str, ...]  # the others, by what they give: what a device's own plan can be compared with


@dataclass(frozen=True)
class Lint:
    """The advisory report."""

    operations: int
    gflops: float  # of one picture
    activations_mb: float  # MB that the operations read and write for one picture
    generations: tuple[Share, ...]
    findings: tuple[Finding, ...]
    sources: tuple[str, ...]  # short name, title and address of those that the findings name

    def lines(self) -> list[str]:
        """The report as text: a line for generations that are alike, a few for a finding."""
        alike = self._alike()
        width = max(len(chips) for chips, _ in alike)
        shares = [
            f"  {chips:<{width}}  {s.likely_eligible} of {self.operations} operations, {s.flops_share:.1%} of FLOPs, "
            f"{s.bytes_share:.1%} of bytes; {s.segments} segment{'' if s.segments == 1 else 's'}, "
            f"{s.handed_over_mb:.1f} MB handed over"
            for chips, s in alike
        ]
        found = [
            line
            for f in self.findings
            for line in textwrap.wrap(
                f.line(), COLUMNS, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
            )
        ]
        head = f"Neural Engine, by rules of thumb, likely eligible of {self.gflops:.2f} GFLOP and {self.activations_mb:.0f} MB:"
        return [head, *shares, *found]

    def _alike(self) -> list[tuple[str, Share]]:
        """Generations in a row with the same shares, under one name."""
        runs: list[list[Share]] = []
        for share in self.generations:
            if runs and dataclasses.replace(share, chips="") == dataclasses.replace(runs[-1][-1], chips=""):
                runs[-1].append(share)
            else:
                runs.append([share])
        newest = self.generations[-1]
        named = []
        for run in runs:
            first, last = run[0].chips, run[-1].chips
            if len(run) == 1:
                named.append((first, run[0]))
            else:
                named.append((f"{first} and later" if run[-1] is newest else f"{first} to {last}", run[0]))
        return named


def lint(program: Program, largest: Mapping[str, float] | None = None) -> Lint:
    """Check every operation of a program, which is one function of a package, for every generation.

    `largest`: the largest magnitude of each tensor that was seen when the program was executed; without, any is possible.
    """
    checker = Checker(program, largest or {})
    work = [flops(op, program, checker.values) for op in program.operations]
    moved = [traffic(op, checker.values) for op in program.operations]
    broken = [[set(checker.broken(op, n)) for op in program.operations] for n in range(len(GENERATIONS))]
    names = [op.outputs[0].name for op in program.operations]
    total, moved_in_all = sum(work) or 1.0, sum(moved) or 1
    shares = []
    for generation, rules in zip(GENERATIONS, broken, strict=True):
        on_engine = [not any(RULES[rule].effect == "elsewhere" for rule in against) for against in rules]
        cut = segments(program, on_engine)
        shares.append(
            Share(
                chips=generation.chips,
                likely_eligible=sum(on_engine),
                flops_share=sum(compress(work, on_engine)) / total,
                bytes_share=sum(compress(moved, on_engine)) / moved_in_all,
                segments=cut.on_engine,
                handed_over_mb=cut.handed_over / 1e6,
                elsewhere=tuple(compress(names, (not engine for engine in on_engine))),
            )
        )
    found = []
    for name, rule in RULES.items():
        for numbers, at in _held(name, broken):
            against = [program.operations[i] for i in at]
            if rule.effect == "slower" and _padded(against, checker) < LEAST * moved_in_all:
                continue
            found.append(
                Finding(
                    rule=name,
                    effect=rule.effect,
                    chips=_named(numbers),
                    operations=len(at),
                    flops_share=sum(work[i] for i in at) / total,
                    bytes_share=sum(moved[i] for i in at) / moved_in_all,
                    example=f"{against[0].kind} {names[at[0]]}",
                    reason=rule.reason,
                    advice=rule.advice,
                    sources=rule.sources,
                    differs=rule.differs,
                )
            )
    cited = " ".join(f"{f.sources} {f.differs}" for f in found)
    sources = tuple(f"{key}: {s.name}, {s.address}" for key, s in SOURCES.items() if key in cited)
    return Lint(len(program.operations), total / 1e9, moved_in_all / 1e6, tuple(shares), tuple(found), sources)


def _held(rule: str, broken: Sequence[Sequence[set[str]]]) -> Iterator[tuple[tuple[int, ...], list[int]]]:
    """Operations by the generations on which they break a rule, the most generations first."""
    by: dict[tuple[int, ...], list[int]] = {}
    for i in range(len(broken[0])):
        if numbers := tuple(n for n in range(len(broken)) if rule in broken[n][i]):
            by.setdefault(numbers, []).append(i)
    yield from sorted(by.items(), key=lambda item: -len(item[0]))


def _named(numbers: tuple[int, ...]) -> str:
    if len(numbers) == len(GENERATIONS):
        return "all chips"
    return ", ".join(GENERATIONS[n].chips for n in numbers)


def _padded(operations: Sequence[Operation], checker: Checker) -> int:
    """Bytes of padding in the rows that operations read and write."""
    return sum(padding(v) for op in operations for v in (*op.outputs, *taken(op, checker.values)))
