"""One wrong value on an artefact's card, of every kind that a card holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Edit = Callable[[dict[str, Any]], object]  # of the card's JSON


def _set(section: str, **values: Any) -> Edit:
    return lambda raw: raw[section].update(values)


def _times(section: str, field: str, factor: float) -> Edit:
    return lambda raw: raw[section].update({field: factor * raw[section][field]})


CARD: dict[str, Edit] = {
    "threshold x 1.4": _times("calibration", "threshold", 1.4),
    "threshold in the last place": _times("calibration", "threshold", 1 + 2**-52),
    "pixel threshold x 2": _times("calibration", "pixel_threshold", 2),
    "one score": lambda raw: raw["calibration"]["scores"].__setitem__(0, raw["calibration"]["scores"][0] - 0.01),
    "budget": _set("calibration", false_alarms=0.19),
    "what the pictures vouch for": _set("calibration", achievable=0.01),
    "unit of the score": lambda raw: raw["outputs"][0].update(unit="probability"),
    "unit of the reconstruction": lambda raw: raw["outputs"][4].update(unit="levels, 0 to 255"),
    "outputs in another order": lambda raw: raw["outputs"].reverse(),
    "fit": _set("input", fit="letterbox"),
    "region": _set("input", roi=[0, 0, 16, 16]),
    "white of 16 bits": _set("input", full_scale=4095),
    "cells of the score": _set("score_rule", cell=4),
    "share of the score": _set("score_rule", top_share=0.5),
    "a proof that was never made": _set("parity", images_good=1000, images_defective=1000),
    "a smaller error": lambda raw: raw["parity"]["max_error"].update(score=0.0),
    "fewer flips": _set("parity", verdict_flips=-1),
    "no proof": lambda raw: raw.update(parity=None),
    "a good evaluation": lambda raw: raw.update(results={"scores": {"image": {"auroc": 1.0}}}),
    "weights of another run": lambda raw: raw.update(weights_sha256="0" * 64),
    "training data": _set("identity", data_fingerprint="0" * 64),
    "category": _set("identity", category="bottle"),
    "version": _set("identity", vtad_version="9.9"),
    "compute units": lambda raw: raw.update(compute_units="CPU_ONLY"),
}
