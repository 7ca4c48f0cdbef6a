"""Training pictures: a reproducible split of good ones, their fingerprint, and a cache that decodes each file once."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from vtad.data.layout import DataError
from vtad_runtime.contract.card import Input
from vtad_runtime.contract.disk.files import sha256_of
from vtad_runtime.contract.errors import NOT_WRITTEN, USAGE, disk_full
from vtad_runtime.contract.fit import read_fitted
from vtad_runtime.contract.image import ImageError
from vtad_runtime.contract.progress import watched
from vtad_runtime.contract.threshold.conformal import MIN_IMAGES

FEWEST_TO_TRAIN = 3  # good pictures that are learnt from
FEWEST = FEWEST_TO_TRAIN + MIN_IMAGES  # good pictures to train and calibrate from
MEMORY = 2 << 30  # bytes of pictures kept in memory by default


def split_good(
    files: Sequence[Path], val_split: float = 0.2, seed: int = 0
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Good pictures as (training, held out): the share `val_split` is held out, rounded, and at least three each way.

    Which file goes where depends on `seed` and on the names below the common folder of all files only, not on the
    order on disk or on where that folder is. Raises DataError below six pictures and for a share outside 0..1.
    """
    if not 0 < val_split < 1:
        raise DataError(f"val_split: expected a share between 0 and 1, got {val_split}")
    names = relative_names(files)
    if len(files) < FEWEST:
        where = files[0].parent if files else "train/good"
        raise DataError(
            f"{where}: expected at least {FEWEST} good pictures, got {len(files)}; "
            "add more (some dozens make a usable detector)"
        )
    ranked = sorted(files, key=lambda file: hashlib.sha256(os.fsencode(f"{seed}\0{names[file]}")).digest())
    held_out = min(max(MIN_IMAGES, math.floor(len(files) * val_split + 0.5)), len(files) - FEWEST_TO_TRAIN)
    train, val = ranked[held_out:], ranked[:held_out]
    return tuple(sorted(train, key=names.__getitem__)), tuple(sorted(val, key=names.__getitem__))


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """Indices of at most `most` of so many pictures, spread evenly; in order, and all of them where they are not more.

    Pictures lie in the order of their names, and often names are dates: the first ones would be those of a few days.
    """
    few = min(most, count)
    return np.arange(few) * count // max(1, few)


def of_one_colour(image: NDArray[np.uint8]) -> bool:
    """Whether nothing is to be seen in a picture (H, W, 3): a covered lens, a wrong exposure."""
    return bool((image == image[0, 0]).all())


def fingerprint(files: Sequence[Path]) -> str:
    """sha256, in hex, over the sha256 of each file's bytes, in the order of the relative names.

    Raises DataError, naming the file, where one cannot be read.
    """
    names = relative_names(files)
    total = hashlib.sha256()
    for file in sorted(files, key=names.__getitem__):
        try:
            total.update(sha256_of(file))
        except OSError as e:
            raise DataError(f"{file}: expected a readable file, got {e.strerror or e}") from e
    return total.hexdigest()


def relative_names(files: Sequence[Path]) -> dict[Path, str]:
    """Each file's name below the deepest folder that holds them all, with forward slashes."""
    if not files:
        return {}
    top = Path(os.path.commonpath([file.parent for file in files]))
    return {file: file.relative_to(top).as_posix() for file in files}


class ImageCache:
    """Pictures decoded and fitted once: `cache[i]` is (H, W, 3) uint8 RGB, `cache[[3, 1]]` is (2, H, W, 3), a copy.

    Decoding runs in threads. Up to `memory` bytes the pictures are kept in memory; beyond that they go to a temporary
    file without a name, whose room is free after `close`, a `with` block, and the end of the process, however it ends.
    Raises DataError, naming the first file in order that cannot be used.
    """

    def __init__(
        self,
        files: Sequence[Path],
        spec: Input,
        *,
        memory: int = MEMORY,
        workers: int | None = None,
        temporary: Path | None = None,
    ) -> None:
        self.files = tuple(files)
        shape = (len(self.files), spec.height, spec.width, 3)
        self._array: NDArray[np.uint8] = (
            np.empty(shape, np.uint8) if math.prod(shape) <= memory else _mapped(shape, temporary)
        )
        try:
            self._fill(spec, workers or min(8, os.cpu_count() or 1))
        except BaseException:
            self.close()
            raise

    def _fill(self, spec: Input, workers: int) -> None:
        array = self._array

        def decode(i: int) -> None:
            try:
                array[i], _ = read_fitted(self.files[i], spec)
            except ImageError as e:
                where = "" if str(e).startswith(str(self.files[i])) else f"{self.files[i]}: "
                raise DataError(f"{where}{e}") from e

        with ThreadPoolExecutor(workers) as pool:
            jobs = [pool.submit(decode, i) for i in range(len(self.files))]
            try:
                for job in watched(jobs, "decoding pictures"):
                    job.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, 3)."""
        n, h, w, c = self._array.shape
        return n, h, w, c

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: int | slice | Sequence[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
        """One picture (H, W, 3), or several (n, H, W, 3); copies, so that no caller can change the cache."""
        return np.array(self._array[index])

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[i] for i in range(len(self)))

    def __enter__(self) -> ImageCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the pictures, and of the temporary file. Safe to call again; the cache is empty afterwards."""
        self._array = np.empty((0, *self._array.shape[1:]), np.uint8)


def _mapped(shape: tuple[int, ...], folder: Path | None) -> NDArray[np.uint8]:
    """A zero-filled array in a temporary file without a name, which goes with it. Raises DataError when there is no room."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, math.prod(shape))  # a full disk shows here, not as a crash later
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError as e:
        need = math.prod(shape) / (1 << 30)
        where = folder or tempfile.gettempdir()
        raise DataError(
            f"{where}: expected room for {need:.1f} GiB of decoded pictures, got {e.strerror or e}",
            NOT_WRITTEN if disk_full(e) else USAGE,
        ) from e
