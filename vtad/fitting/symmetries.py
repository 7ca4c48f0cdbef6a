"""Which flips and quarter turns leave a good part good: found from good images alone, so that nobody tunes it for a category.

The rule: some training images as they are show what good parts look like. Held-out good images are then scored as they are and
transformed. A symmetry is kept when the two cannot be told apart (AUROC <= ALIKE), neither by features that are seen nowhere
(patch memory) nor by features that are not seen at that position (mean and spread). So a mirrored label or an upside-down
bottle is not taught as good, while a turned washer or a piece of texture is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from vtad.backbones.pretrained import Pretrained
from vtad.config import SQUARE_ONLY, Config
from vtad.data.batches import batches
from vtad.data.images import ImageCache
from vtad.fitting.feature_statistics import fit_statistics
from vtad.metrics import image_auroc
from vtad.models.autoencoder import Autoencoder
from vtad.models.features import BackboneFeatures
from vtad_runtime.contract.progress import watched

STATISTICS_VIEWS = 400  # images under their symmetries that statistics are taken from, unless there are more images
RGB = NDArray[np.uint8]  # (..., H, W, 3)

ALIKE = (
    0.65  # AUROC of transformed against untransformed good images that counts as alike: chance and two standard errors
)
LEARNT_FROM = 64  # training images at most
COMPARED = 32  # held-out images at most
PATCHES = 512  # stored; fewer than the detector's, for the time they take
TOP_SHARE = 0.03  # of the cells: those whose mean says how odd an image is

TRANSFORMS: dict[str, Callable[[RGB], RGB]] = {
    "mirror": lambda x: x[..., :, ::-1, :],
    "flip": lambda x: x[..., ::-1, :, :],
    "turn180": lambda x: x[..., ::-1, ::-1, :],
    "turn90": lambda x: x.swapaxes(-3, -2)[..., :, ::-1, :],
    "turn270": lambda x: x.swapaxes(-3, -2)[..., ::-1, :, :],
    "transpose": lambda x: x.swapaxes(-3, -2),
    "transverse": lambda x: x.swapaxes(-3, -2)[..., ::-1, ::-1, :],
}


def with_symmetries(
    config: Config, images: ImageCache, held_out: ImageCache, device: torch.device, pretrained: Pretrained | None
) -> Config:
    """The configuration with the symmetries found; itself when they are given."""
    if config.symmetries != "auto":
        return config
    kept = [name for name, auroc in told_apart(config, images, held_out, device, pretrained).items() if auroc <= ALIKE]
    return dataclasses.replace(config, symmetries=",".join(kept) or "none")


@torch.no_grad()
def told_apart(
    config: Config, images: ImageCache, held_out: ImageCache, device: torch.device, pretrained: Pretrained | None
) -> dict[str, float]:
    """For each symmetry, how well transformed held-out images can be told from the others: the larger AUROC of two."""
    model = Autoencoder(dataclasses.replace(config, patches=min(PATCHES, config.patches))).to(device).eval()
    if isinstance(model.features, BackboneFeatures) and pretrained is not None:
        model.features.load_pretrained(pretrained)
    fit_statistics(model, images[_spread(len(images), LEARNT_FROM)], device, gmm_and_position=False)
    compared = held_out[_spread(len(held_out), COMPARED)]
    plain = _oddness(model, compared, device)
    square = config.image_height == config.image_width
    found = {}
    for name, transform in watched(TRANSFORMS.items(), "looking for symmetries"):
        if square or name not in SQUARE_ONLY:
            other = _oddness(model, transform(compared), device)
            found[name] = max(_auroc(plain[:, i], other[:, i]) for i in range(plain.shape[1]))
    return found


class Views:
    """Images as they are, then under their symmetries: (N * (1 + symmetries), H, W, 3), at most `most` or all N as they are."""

    def __init__(self, images: ImageCache, names: tuple[str, ...], most: int) -> None:
        self._images = images
        self._transforms: list[Callable[[RGB], RGB]] = [lambda x: x, *(TRANSFORMS[name] for name in names)]
        self._length = min(len(images) * len(self._transforms), max(len(images), most))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: slice) -> RGB:
        """Views `index` of all; view i is of image i modulo their number."""
        chosen = range(self._length)[index]
        views = np.empty((len(chosen), *self._images.shape[1:]), np.uint8)
        for i, view in enumerate(chosen):
            views[i] = self._transform(view)(self._images[view % len(self._images)])
        return views

    def _transform(self, view: int) -> Callable[[RGB], RGB]:
        turn, image = divmod(view, len(self._images))
        # Shifted by the image, so that a cut at `most` leaves out all symmetries alike.
        return self._transforms[0 if turn == 0 else 1 + (turn - 1 + image) % (len(self._transforms) - 1)]


def vary(images: RGB, names: tuple[str, ...], rng: np.random.Generator) -> RGB:
    """Each of (B, H, W, 3) under a random one of the symmetries, or as it is."""
    chosen = rng.integers(len(names) + 1, size=len(images))
    varied = np.empty(images.shape, np.uint8)  # row by row: np.stack of turned pictures would keep their turned layout
    for i, (image, which) in enumerate(zip(images, chosen, strict=True)):
        varied[i] = image if which == 0 else TRANSFORMS[names[which - 1]](image)
    return varied


def _oddness(model: Autoencoder, images: RGB, device: torch.device) -> NDArray[np.float32]:
    """Mean over the oddest cells of the patch memory's distance and of the squared distance at each position, (N, 2)."""
    out = []
    for batch in batches(images, device):
        features = model.features(batch.float() / 255)[0]
        off = (model.whitening(features) - model.context_density.base_location) * torch.exp(
            -model.context_density.base_log_sigma
        )
        maps = torch.stack([model.patch_memory(features), off.square().sum(1)], dim=1).flatten(2)  # (B, 2, cells)
        top = max(1, round(TOP_SHARE * maps.shape[2]))
        out.append(torch.topk(maps, top, dim=2).values.mean(2).cpu())
    odd: NDArray[np.float32] = torch.cat(out).numpy()
    return odd


def _auroc(plain: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    labels = [False] * len(plain) + [True] * len(other)
    value = image_auroc(labels, [*plain.tolist(), *other.tolist()])
    assert value is not None  # both kinds are there
    return value


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Indices of at most `most` of `count` things, evenly spread."""
    few = min(count, most)
    return np.arange(few) * count // few
