"""What every artefact says of itself, in words: the model, its input and its outputs with their units."""

from __future__ import annotations

from vtad_runtime.contract.card import ONNX_KEY, Card

AUTHOR = "vtad"
LICENCE = "Apache-2.0"
_Z_SCORE = "a z-score: in standard deviations of good pictures"

OUTPUTS = {
    "score": f"Score of the picture: mean of the highest cells of the heatmap, {_Z_SCORE}. "
    "NG if and only if it is above calibration.threshold of the card.",
    "heatmap": f"How unlike good parts each pixel is, {_Z_SCORE}.",
    "ssim_map": f"How unlike its reconstruction each pixel is (1 - SSIM), {_Z_SCORE}.",
    "density_map": f"How unlikely the features at each pixel are (negative log-likelihood), {_Z_SCORE}.",
    "reconstruction": "The picture as the model expects it, RGB, intensity about 0 to 1.",
}


def model_text(card: Card) -> str:
    """What the model is, and where its card lies."""
    return (
        f"Visual anomaly detection of {card.identity.category}: score, heatmap and reconstruction. "
        f"The inspection card is in the metadata under {ONNX_KEY}."
    )


def input_text(card: Card) -> str:
    """What the one input takes."""
    size = f"{card.input.width} x {card.input.height} pixels"
    return f"Picture, RGB, {size}, intensity 0 to 255; the scale is in the model."
