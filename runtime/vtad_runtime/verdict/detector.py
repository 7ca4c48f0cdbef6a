"""The detector as a Python user sees it: RGB in, score, verdict, maps and regions out.

detector = Detector("pill.onnx")
result = detector("part.png")     # or the bytes of a file, or (H, W, 3) uint8 RGB; or detector.batch([rgb, rgb])

A good part costs what its verdict needs. SSIM map, density map and reconstruction come with pictures that are NG or UNSURE; those
of others are computed when somebody looks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.card import ScoreRule
from vtad_runtime.contract.fit import Placement, fit_image, unfit_map
from vtad_runtime.contract.image import Decoded, decode_picture, read_picture
from vtad_runtime.contract.threshold.conformal import REVIEW, review_level
from vtad_runtime.engine.engines import CPU
from vtad_runtime.engine.model import MAX_BATCH, OpenModel
from vtad_runtime.verdict.engine_choice import open_proven
from vtad_runtime.verdict.explanation import Explanation, Maps, MapsError, checked_maps, maps_of
from vtad_runtime.verdict.score import top_cells
from vtad_runtime.verdict.verdict import Verdict, decide

if TYPE_CHECKING:
    from vtad_runtime.contract.references import References
    from vtad_runtime.verdict.reference_check import ReferenceCheck

SeenBy = Literal["ssim", "density", "both"]
Picture = Path | str | bytes | NDArray[np.uint8]


@dataclass(frozen=True)
class Region:
    """One connected part of the heatmap above the pixel threshold."""

    x: int  # source pixels, left edge
    y: int  # source pixels, top edge
    width: int
    height: int
    area: int  # source pixels
    peak: float  # the heatmap's maximum, a z-score
    seen_by: SeenBy  # the map with the larger mean in the region; both if the smaller mean is at least half of it


@dataclass(frozen=True, eq=False)
class Result:
    """What the detector says about one picture.

    Maps are kept at the model's resolution and brought to that of the source when asked for: at 12 megapixels the three
    maps of one picture would hold 144 MB. Those of `explanation` may cost a run of the model at the first look, and raise then
    what it raises: ModelError, MapsError.
    """

    score: float
    p_value: float  # conformal: the share of good pictures that look this odd; NaN when the score is not finite
    verdict: Verdict
    threshold: float  # NG if and only if score > threshold
    pixel_threshold: float  # a z-score, as are the maps
    regions: tuple[Region, ...]  # largest peak first; none of a picture that is OK
    model_heatmap: NDArray[np.float32]  # (height, width)
    explanation: Explanation  # SSIM map, density map and reconstruction
    placement: Placement  # where the picture lies in the model's input
    error: str | None  # why the verdict is ERROR
    doubt: str | None = None  # why it is UNSURE, where the score would not make it so

    @property
    def reconstruction(self) -> NDArray[np.uint8]:
        """(height, width, 3) RGB, model resolution."""
        return self.explanation.maps().reconstruction

    @property
    def model_ssim_map(self) -> NDArray[np.float32]:
        """How unlike the reconstruction, (height, width)."""
        return self.explanation.maps().ssim_map

    @property
    def model_density_map(self) -> NDArray[np.float32]:
        """How unlikely the features, (height, width)."""
        return self.explanation.maps().density_map

    @property
    def heatmap(self) -> NDArray[np.float32]:
        """The combined map at source resolution, (H, W). Made anew at each access."""
        return unfit_map(self.model_heatmap, self.placement)

    @property
    def ssim_map(self) -> NDArray[np.float32]:
        """How unlike the reconstruction, at source resolution, (H, W). Made anew at each access."""
        return unfit_map(self.model_ssim_map, self.placement)

    @property
    def density_map(self) -> NDArray[np.float32]:
        """How unlikely the features, at source resolution, (H, W). Made anew at each access."""
        return unfit_map(self.model_density_map, self.placement)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture fitted to the model's input, ready for a batch."""

    pixels: NDArray[np.uint8]  # (3, height, width)
    placement: Placement
    doubt: str | None = None  # why it is not to be trusted


class Detector:
    """An exported detector. Safe to use from several threads."""

    def __init__(
        self,
        model: Path | str | bytes | OpenModel,
        threads: int | None = None,
        *,
        engine: str = CPU,
        callers: int = 1,
        review: float = REVIEW,
        allow_changed: bool = False,
    ) -> None:
        """Open a model of vtad-export with `threads` CPU threads (None: onnxruntime decides).

        An .onnx anywhere, or its bytes; an .mlpackage on a Mac with the extra `apple`; or a model that is open already. `engine`:
        one of `ENGINES`, or "auto", see `open_proven`. `callers`: so many threads of yours judge at once, each one picture; a CPU
        then gives more pictures a second than with all its threads on each operation, and a picture alone takes longer. Of good
        pictures at most the share `review` is UNSURE or NG, see `review_level`; 0: none is UNSURE for its score. Raises
        ModelError, also where the model is not as it was exported, unless `allow_changed`; `integrity` says what was changed.
        """
        if isinstance(model, Path | str | bytes):
            model = open_proven(model, threads, engine, callers=callers, allow_changed=allow_changed)
        self._session = model
        self.path, self.card, self.integrity = model.path, model.card, model.integrity
        self.unsure_from = review_level(self.card.calibration, review)

    @property
    def engine(self) -> str:
        """What runs the model."""
        return self._session.engine

    @property
    def callers(self) -> int:
        """How many threads should judge at once, each one picture; 1: batches."""
        return self._session.callers

    def run_by(self, opened: OpenModel) -> None:
        """Go on with the same model, opened by another engine; no picture is in hand."""
        self._session = opened

    def __call__(self, picture: Picture) -> Result:
        """Judge one picture of any size: a file, the bytes of one, or (H, W, 3) uint8 RGB.

        Files are decoded like those of the training. Raises ValueError, ImageError, ModelError.
        """
        return self.batch([picture])[0]

    def file(self, path: Path | str) -> Result:
        """Judge one picture file. Raises ImageError, ModelError."""
        return self(path)

    def batch(self, pictures: Sequence[Picture]) -> list[Result]:
        """Judge several pictures, each as one alone. Raises ValueError, ImageError, ModelError."""
        return self.judge([self._prepared(picture) for picture in pictures])

    def read(self, picture: Path | str | bytes) -> Decoded:
        """Decode a file, or the bytes of one, as those of the training were. Raises ImageError."""
        full_scale = self.card.input.full_scale
        return (
            decode_picture(picture, full_scale)
            if isinstance(picture, bytes)
            else read_picture(Path(picture), full_scale)
        )

    def prepare(self, rgb: NDArray[np.uint8], doubt: str | None = None) -> Prepared:
        """Fit one picture to the input; `doubt` says why it is not to be trusted.

        Raises ValueError: not (H, W, 3) uint8; ImageError: see `fit_image`.
        """
        array = isinstance(rgb, np.ndarray)
        if not array or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
            got = f"{rgb.shape} {rgb.dtype}" if array else type(rgb).__name__
            raise ValueError(f"picture: expected an RGB array (H, W, 3) of uint8, got {got}; give files by their path")
        fitted, placement = fit_image(rgb, self.card.input)
        pixels = np.empty((3, *fitted.shape[:2]), np.uint8)
        cv2.split(fitted, list(pixels))
        return Prepared(pixels, placement, doubt)

    def judge(self, prepared: list[Prepared], *, explain: bool = False) -> list[Result]:
        """Run prepared pictures, in batches of at most 64. Raises ModelError.

        `explain`: everything will be looked at, so everything is computed at once.
        """
        results: list[Result] = []
        for start in range(0, len(prepared), MAX_BATCH):
            part = prepared[start : start + MAX_BATCH]
            results += self._explained(part) if explain else self._judged(part)
        return results

    def open_whole(self) -> None:
        """Open now what explains a picture, so that the first one that is NG or UNSURE waits for nothing. Raises ModelError."""
        self._session.open_whole()

    def references(self) -> References | None:
        """The reference pictures in the model; None where there are none. Raises ReferencesError."""
        return self._session.references()

    def check_references(self) -> ReferenceCheck | None:
        """Whether they are judged as by torch at the export; None where there are none. Raises ReferencesError, ModelError."""
        from vtad_runtime.verdict.reference_check import check_references  # no verdict needs it

        return check_references(self._session)

    def _prepared(self, picture: Picture) -> Prepared:
        if isinstance(picture, Path | str | bytes):
            decoded = self.read(picture)
            return self.prepare(decoded.rgb, decoded.doubt)
        return self.prepare(picture)

    def _judged(self, part: list[Prepared]) -> list[Result]:
        """By the verdict alone; those that are NG or UNSURE are then explained, in one run."""
        found = self._session.verdict(_stacked(part))
        results = [
            self._result(float(score), heatmap, Explanation(partial(self._maps, p.pixels)), p)
            for score, heatmap, p in zip(found.score, found.heatmap, part, strict=True)
        ]
        odd = [i for i, r in enumerate(results) if r.verdict in (Verdict.NG, Verdict.UNSURE)]
        if odd:
            outputs = self._session.run(_stacked([part[i] for i in odd]))
            for at, i in enumerate(odd):
                results[i] = self._with(results[i], maps_of(outputs, at))
        return results

    def _explained(self, part: list[Prepared]) -> list[Result]:
        """By everything, in one run."""
        found = self._session.run(_stacked(part))
        results = []
        for i, p in enumerate(part):
            maps = maps_of(found, i)
            result = self._result(float(found.score[i]), found.heatmap[i], Explanation.of(maps), p)
            results.append(self._with(result, maps))
        return results

    def _maps(self, pixels: NDArray[np.uint8]) -> Maps:
        """Those of one picture, (3, height, width). Raises ModelError, MapsError."""
        return checked_maps(maps_of(self._session.run(pixels[None]), 0))

    def _result(self, score: float, heatmap: NDArray[np.float32], explanation: Explanation, p: Prepared) -> Result:
        """What score and heatmap say, without regions."""
        calibration, error = self.card.calibration, None
        verdict = decide(calibration, score, self.unsure_from, doubt=p.doubt)
        if verdict is Verdict.ERROR:
            error = f"expected a finite score, got {score}"
        elif not np.isfinite(heatmap).all():
            verdict, error = Verdict.ERROR, f"expected a finite heatmap, got NaN or infinity (score {score:.4g})"
        return Result(
            score=score,
            p_value=calibration.p_value(score) if math.isfinite(score) else math.nan,
            verdict=verdict,
            threshold=calibration.threshold,
            pixel_threshold=calibration.pixel_threshold,
            regions=(),
            model_heatmap=heatmap,
            explanation=explanation,
            placement=p.placement,
            error=error,
            doubt=p.doubt,
        )

    def _with(self, result: Result, maps: Maps) -> Result:
        """The result with its maps, and the regions that these show."""
        result = dataclasses.replace(result, explanation=Explanation.of(maps))
        try:
            checked_maps(maps)
        except MapsError as e:
            return dataclasses.replace(result, verdict=Verdict.ERROR, error=result.error or str(e))
        return agreeing(result, self.card.score_rule, self.unsure_from)


def _stacked(part: list[Prepared]) -> NDArray[np.uint8]:
    return np.stack([p.pixels for p in part])  # (n, 3, height, width)


def agreeing(result: Result, rule: ScoreRule, unsure_from: float | None) -> Result:
    """The result with the regions that its verdict shows: a picture that is OK has none, one that is odd has at least one.

    Those above the pixel threshold; where there is none, what made the score: the highest cells, whose mean it is.
    """
    if result.verdict in (Verdict.OK, Verdict.ERROR):
        return dataclasses.replace(result, regions=()) if result.regions else result
    maps = result.model_heatmap, result.explanation
    regions = result.regions or find_regions(*maps, result.placement, result.pixel_threshold)
    if not regions and result.score > (result.threshold if unsure_from is None else unsure_from):
        inside = result.model_heatmap[result.placement.inside.slices]
        level = np.float32(min(top_cells(result.model_heatmap, rule).min(), inside.max()))
        regions = find_regions(*maps, result.placement, float(np.nextafter(level, np.float32(-np.inf))))
    return dataclasses.replace(result, regions=regions)


def find_regions(
    heatmap: NDArray[np.float32],
    explanation: Explanation,
    placement: Placement,
    pixel_threshold: float,
) -> tuple[Region, ...]:
    """The 8-connected parts of the heatmap above the threshold, in source pixels, largest peak first.

    The heatmap is (height, width), z-scores; the explanation is looked at where there are such parts. Regions are found at this
    resolution, the model's, and their corners then brought to the source: at that of the source the maps of one large picture
    would take gigabytes.
    """
    heat = heatmap[placement.inside.slices]  # (h, w)
    above = (heat > pixel_threshold).astype(np.uint8)
    if not above.any():
        return ()
    ssim, nll = (values[placement.inside.slices] for values in explanation.maps()[:2])
    (rows, columns), used = heat.shape, placement.used
    count, labels, stats, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    regions = []
    for label in range(1, count):  # 0 is the background
        x, y, width, height, area = (int(v) for v in stats[label])
        box = slice(y, y + height), slice(x, x + width)
        inside = labels[box] == label
        seen_by = _seen_by(float(ssim[box][inside].mean()), float(nll[box][inside].mean()))
        left, top = x * used.width // columns, y * used.height // rows
        right, bottom = -(-(x + width) * used.width // columns), -(-(y + height) * used.height // rows)  # rounded up
        size = max(1, round(area * used.width * used.height / (columns * rows)))
        peak = float(heat[box][inside].max())
        regions.append(Region(used.x + left, used.y + top, right - left, bottom - top, size, peak, seen_by))
    return tuple(sorted(regions, key=lambda r: -r.peak))


def _seen_by(ssim: float, density: float) -> SeenBy:
    """Which map carries a region, from the maps' means inside it."""
    if min(ssim, density) >= max(ssim, density) / 2:
        return "both"
    return "ssim" if ssim > density else "density"
