"""Damaged pictures, cards and models: an answer or one error of ours, never a crash, a foreign exception or a hang."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from tiny_model import bad, make_card, write_model

from fuzz.damage import ROUNDS, damaged, or_one_line
from vtad_runtime import Detector, Verdict
from vtad_runtime.contract.card import FURTHEST, Card, CardError
from vtad_runtime.contract.errors import VtadError
from vtad_runtime.contract.image import ImageError, decode_picture, image_size, read_mask, read_rgb, sixteen_bit_peak
from vtad_runtime.contract.typed_json import WrongJson, parsed
from vtad_runtime.line.golden_record import GoldenError, Record

SIDEWAYS = Image.Exif()
SIDEWAYS[0x0112] = 6  # turn clockwise to view
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "png": ("PNG", "RGB", {}),
    "png-transparent": ("PNG", "RGBA", {}),
    "png-1": ("PNG", "1", {}),
    "png16": ("PNG", "I;16", {}),
    "png16-colour": (".png", "RGB;16", {}),
    "png-palette": ("PNG", "P", {}),
    "png-animated": ("PNG", "RGB", {"save_all": True, "append_images": [Image.new("RGB", (64, 48))]}),
    "jpeg": ("JPEG", "RGB", {"quality": 85}),
    "jpeg-sideways": ("JPEG", "RGB", {"exif": SIDEWAYS}),
    "jpeg-restarts": ("JPEG", "RGB", {"restart_marker_blocks": 2}),
    "jpeg-progressive": ("JPEG", "L", {"progressive": True}),
    "jpeg-progressive-colour": ("JPEG", "RGB", {"progressive": True}),
    "jpeg-cmyk": ("JPEG", "CMYK", {}),
    "bmp": ("BMP", "RGB", {}),
    "bmp-palette": ("BMP", "P", {}),
    "tiff": ("TIFF", "RGB", {}),
    "tiff16": ("TIFF", "I;16", {}),
    "tiff16-colour": (".tif", "RGB;16", {}),
    "tiff-lzw": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "tiff-deflate": ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
    "tiff-jpeg": ("TIFF", "RGB", {"compression": "jpeg"}),
    "tiff-fax": ("TIFF", "1", {"compression": "group4"}),
    "webp": ("WEBP", "RGB", {}),
    "webp-lossless": ("WEBP", "RGBA", {"lossless": True}),
}
UNCHECKED = (
    "bmp",
    "bmp-palette",
    "tiff",
    "tiff16",
    "tiff-jpeg",
    "tiff-fax",
)  # zeros are black there, or look like pixels


def picture(kind: str) -> bytes:
    form, mode, options = KINDS[kind]
    coarse = np.random.default_rng(3).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC)
    if mode == "RGB;16":
        return bytes(cv2.imencode(form, np.asarray(image).astype(np.uint16) * 16)[1])
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    data = io.BytesIO()
    image.convert(mode).save(data, form, **options)
    return data.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged TIFF
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_picture_is_pixels_or_one_error(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for data in damaged(picture(kind), kind=list(KINDS).index(kind)):
        path.write_bytes(data)
        for read in (read_rgb, image_size, read_mask, sixteen_bit_peak):
            with or_one_line(ImageError):
                read(path)
        with or_one_line(ImageError):
            assert decode_picture(data, 4095).rgb.shape[2] == 3


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_that_was_cut_off_is_an_error_unless_all_its_pixels_are_there(kind: str) -> None:
    data = picture(kind)
    whole = decode_picture(data, 4095).rgb
    for at in np.linspace(1, len(data) - 1, 2 * ROUNDS).astype(int):
        cut = [data[:at], data[:at] + b"\xff\xd9"] if kind.startswith("jpeg") else [data[:at]]
        zeros = [data[:at] + bytes(len(data) - at)] if kind not in UNCHECKED and at < len(data) - 64 else []
        for damaged_data in cut + zeros:  # zeros are what a power cut leaves
            with or_one_line(ImageError):
                np.testing.assert_array_equal(decode_picture(damaged_data, 4095).rgb, whole)


def test_a_damaged_card_is_refused_or_keeps_its_threshold_near_its_scores() -> None:
    whole = make_card().to_json().encode()
    for data in damaged(whole, kind=100):
        with or_one_line(CardError):
            found = Card.from_json(data.decode("utf-8", "replace"), "x.onnx").calibration
            highest, spread = (max(found.scores), float(np.std(found.scores))) if found.scores else (0.0, 1e6)
            assert found.threshold <= highest + FURTHEST * max(spread, 1e-3) + 1e-6


def test_a_damaged_model_opens_and_judges_or_is_one_error(tmp_path: Path) -> None:
    path = write_model(tmp_path / "whole.onnx")
    for data in damaged(path.read_bytes(), kind=101):
        (tmp_path / "x.onnx").write_bytes(data)
        with or_one_line(VtadError):
            assert Detector(tmp_path / "x.onnx")(bad()).verdict in tuple(Verdict)


def test_damaged_json_is_a_value_or_one_error(tmp_path: Path) -> None:
    record = {"schema": 1, "recorded": "2026-01-01T00:00:00Z", "model": {}, "software": {}, "parts": {"a": {}}}
    for data in damaged(json.dumps(record).encode(), kind=102):
        with or_one_line(WrongJson):
            parsed(data)
        (tmp_path / "golden.json").write_bytes(data)
        with or_one_line(GoldenError):
            Record.read(tmp_path / "golden.json")
