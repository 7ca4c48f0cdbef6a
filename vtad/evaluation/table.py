"""The evaluation as a table for the terminal."""

from __future__ import annotations

from vtad.evaluation.evaluate import Evaluation
from vtad_runtime.contract.threshold.trade_off import Count


def table(e: Evaluation) -> str:
    """Lines of text: pictures, pixels by map, defect types, verdicts at the calibrated threshold."""
    image, scores = e.scores.image, e.scores
    lines = [
        f"{e.category}: {scores.good} good and {scores.defective} defective test images",
        "",
        f"  images   AUROC {_share(image.auroc)}   AP {_share(image.average_precision)}   F1-max {_share(image.f1_max)}",
        "",
        "  pixels      AUROC      AP   AUPRO (to FPR 0.3)",
    ]
    for name, pixels in (("heatmap", e.heatmap), ("SSIM alone", e.ssim_map), ("density", e.density_map)):
        lines.append(
            f"  {name:<10} {_share(pixels.auroc)}   {_share(pixels.average_precision)}   {_share(pixels.aupro)}"
        )
    lines += ["", f"  {'defect type':<20} images   image AUROC   missed"]
    for kind, found in scores.kinds.items():
        lines.append(f"  {kind:<20} {found.images:>6}   {_share(found.auroc):>11}   {found.miss_rate:>6.1%}")
    lines += [
        "",
        f"  at the calibrated threshold {scores.threshold:.3f}: false alarms {_counted(scores.false_alarm_rate, scores.good)}; "
        f"missed {_counted(scores.miss_rate, scores.defective)}",
    ]
    if e.unsure_from is not None:
        lines.append(
            f"  UNSURE from {e.unsure_from:.3f}: good images UNSURE or NG {_counted(e.good_with_region, scores.good)}; "
            f"defective ones plain OK {_counted(e.defective_ok, scores.defective)}"
        )
    if e.without_mask:
        lines.append(f"  {e.without_mask} defective images have no mask and count in the image metrics only")
    if e.paper_pro is not None:
        lines.append(f"  VT-ADL's PRO, which is the pixel AUROC of the density map: {_share(e.paper_pro)}")
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "    -" if value is None else f"{value:.3f}"


def _counted(share: float | None, of: int) -> str:
    """A share of so many images, as a count with its exact 95 % interval."""
    return "-" if share is None else str(Count(of, round(share * of)))
