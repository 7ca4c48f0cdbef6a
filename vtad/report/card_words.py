"""An inspection card in words: for `vtad-export --show`, for certificates and for the page."""

from __future__ import annotations

import statistics
import textwrap
from pathlib import Path
from typing import Any

from vtad_runtime.contract.card import Card, Near, Parity, Weighing

UNITS = {"reconstruction": "of full intensity", "score": "of the calibration spread"}  # of errors; the rest are maps
MAPS = "standard deviations"  # of good pictures
WIDTH = 100  # characters of a long text, a line


def card_text(path: Path, card: Card, found: object = None) -> str:
    """What the card of `path` says, one line each; `found` is what its digests say, of an artefact."""
    return "\n".join([str(path), *(f"  {name:<12} {text}" for name, text in card_rows(card, found))])


def card_rows(card: Card, found: object = None) -> list[tuple[str, str]]:
    """What the card says, by name; a row without a name goes on with the one above."""
    who, given, rule, c = card.identity, card.input, card.score_rule, card.calibration
    commit = f", commit {who.git_commit[:12]}" if who.git_commit else ""
    region = f"region x, y, width, height {given.roi}" if given.roi else "whole picture"
    outputs = [f"{o.name} {'x'.join(map(str, o.shape))}, {o.unit}" for o in card.outputs]
    return [
        ("category", who.category),
        ("created", f"{who.created}, vtad {who.vtad_version}{commit}, preset {who.config.get('preset', 'unknown')}"),
        ("weights", f"sha256 {card.weights_sha256[:16]}…; training images sha256 {who.data_fingerprint[:16]}…"),
        ("input", f"{given.name}: {given.width}x{given.height} {given.colour}, uint8, {given.fit}, {region}"),
        *(("outputs" if i == 0 else "", text) for i, text in enumerate(outputs)),
        ("score", f"mean of the highest {rule.top_share:.0%} of the cells, {rule.cell}x{rule.cell} pixels each"),
        ("threshold", f"NG above {c.threshold:.4g}, chosen {c.chosen}"),
        ("", f"regions above {c.pixel_threshold:.4g} {MAPS}"),
        (
            "calibration",
            f"{c.images} good images, scores {c.scores[0]:.4g} to {c.scores[-1]:.4g}, "
            f"median {statistics.median(c.scores):.4g}"
            if c.scores
            else "none",
        ),
        ("", f"false alarms: budget {c.false_alarms:.2%}, these images can vouch for {c.achievable:.2%}"),
        *_shift(who.config),
        *_weighing(card.weighing),
        ("evaluated", _results(card.results)),
        *(("proof" if i == 0 else "", line) for i, line in enumerate(_proof(card.parity))),
        *([("bytes", str(found))] if found else []),
        *(("changes" if i == 0 else "", line) for i, line in enumerate(_changes(card))),
    ]


def error_lines(parity: Parity) -> list[str]:
    """One line an output, and one for the verdicts."""
    lines = [
        f"{name:<15} largest error {error:.1e}{_allowed(parity.tolerance.get(name), UNITS.get(name, MAPS))}"
        for name, error in parity.max_error.items()
    ]
    return [
        *lines,
        f"verdict flips   {parity.verdict_flips} of {parity.images_good + parity.images_defective + parity.images_test}",
        *_near_lines(parity.near),
    ]


def _near_lines(near: Near | None) -> list[str]:
    """What was found near the threshold."""
    if near is None:
        return []
    return [
        f"near threshold  {near.flips} flips among {near.below} images just below and {near.above} just above; "
        f"score off by {near.max_error:.1e} at most,",
        f"                where the nearest is {near.nearest:.1e} of the calibration spread from the threshold",
    ]


def _allowed(limit: float | None, unit: str) -> str:
    return f" {unit}, no limit: it has no weight" if limit is None else f", allowed {limit:.2g} {unit}"


def _proof(parity: Parity | None) -> list[str]:
    if parity is None:
        return ["none: this is not an export"]
    tests = f" and {parity.images_test} test images" if parity.images_test else ""
    head = (
        f"{parity.format} {parity.precision} against torch on {parity.images_good} good images and "
        f"{parity.images_defective} synthetic defects{tests}"
    )
    return [head, *(f"  {line}" for line in error_lines(parity))]


def _changes(card: Card) -> list[str]:
    """Who wrote the artefact after its export, the oldest first."""
    return [f"{c.when} {c.by}: {c.what}; made of sha256 {c.parent[:16]}…" for c in card.history]


def _shift(config: dict[str, Any]) -> list[tuple[str, str]]:
    """How far good parts shift; nothing on older cards."""
    shift = config.get("shift")
    return (
        [("shift", f"pictures shown shifted by up to {shift:.1%} of their sides")] if isinstance(shift, float) else []
    )


def _weighing(found: Weighing | None) -> list[tuple[str, str]]:
    """What each scorer counts, how well the sum does, and which parts good pictures have; none on older cards."""
    if found is None:
        return []
    shown = [("scorers", ", ".join(found.counts) or "one density"), ("", found.qualities)]
    parts = [("" if i else "parts", line) for i, line in enumerate(textwrap.wrap(found.parts, WIDTH))]
    return [(name, text) for name, text in (*shown, *parts) if text]


def _results(results: dict[str, Any] | None) -> str:
    """The headline of an evaluation; its structure is that of vtad.evaluation.evaluate, which later versions may extend."""
    if results is None:
        return "not yet: vtad-eval"
    found = []
    for label, keys in (("image AUROC", ("scores", "image", "auroc")), ("AUPRO", ("heatmap", "aupro"))):
        value: Any = results
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, int | float):
            found.append(f"{label} {value:.3f}")
    return ", ".join(found) or "yes, without AUROC and AUPRO"
