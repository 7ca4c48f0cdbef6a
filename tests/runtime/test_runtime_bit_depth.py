"""Pictures of a camera of 12 bits in files of 16: every reader takes the value that is white from the card."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image
from tiny_model import bad, good, make_card, write_model

from vtad_runtime import Detector, Verdict
from vtad_runtime.commands.calibrate import calibrate
from vtad_runtime.commands.doctor import doctor
from vtad_runtime.commands.replay import replay
from vtad_runtime.commands.run import run
from vtad_runtime.contract.image import ImageError, read_picture, read_rgb, sixteen_bit_peak
from vtad_runtime.line.golden import Golden
from vtad_runtime.verdict import engine_choice

WHITE = 4095


def of_12_bits(rgb: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """(H, W) grey values of a camera of 12 bits that decode to these pixels."""
    values: NDArray[np.uint16] = np.rint(rgb[:, :, 0] * (WHITE / 255)).astype(np.uint16)
    return values


def save(values: NDArray[np.uint16], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def too_bright() -> NDArray[np.uint16]:
    values = of_12_bits(good())
    values[3, 5:7] = 50000
    return values


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, in/good.png, in/ng.png and in/odd.png, in which commands run; good ones are dark by 16 bits."""
    monkeypatch.chdir(tmp_path)
    write_model(Path("m.onnx"), make_card(full_scale=WHITE))
    write_model(Path("sixteen.onnx"), make_card())
    save(of_12_bits(good()), Path("in/good.png"))
    save(of_12_bits(bad()), Path("in/ng.png"))
    save(too_bright(), Path("in/odd.png"))
    return tmp_path


def invoke(command: Any, *arguments: str) -> str:
    result = CliRunner().invoke(command, arguments)
    assert "Traceback" not in result.output
    assert result.exit_code in (0, 1), result.output
    return result.output


def verdicts() -> dict[str, str]:
    rows = [json.loads(text) for text in Path("results/0001/results.jsonl").read_text().splitlines()]
    assert (
        "brighter than 12 bits: 2 pixels above 4095, up to 50000"
        in next(r for r in rows if "odd" in r["file"])["reason"]
    )
    return {Path(row["file"]).stem: row["verdict"] for row in rows}


EXPECTED = {"good": "OK", "ng": "NG", "odd": "UNSURE"}


@pytest.mark.parametrize("read", [Path, str, lambda name: Path(name).read_bytes()])
@pytest.mark.usefixtures("line")
def test_the_detector_takes_files_by_the_full_scale_of_its_card(read: Callable[[str], Any]) -> None:
    detector = Detector("m.onnx")
    found = {name: detector(read(f"in/{name}.png")) for name in EXPECTED}
    assert {name: str(result.verdict) for name, result in found.items()} == EXPECTED
    assert found["good"].score == 0.0
    assert found["odd"].doubt is not None
    assert Detector("sixteen.onnx")(read("in/good.png")).verdict is Verdict.NG  # it is almost black by 16 bits


@pytest.mark.usefixtures("line")
def test_a_folder_and_its_replay_agree() -> None:
    invoke(run, "--model", "m.onnx", "--folder", "in")
    assert verdicts() == EXPECTED
    assert "0 flips among 3" in invoke(replay, "results/0001", "--model", "m.onnx")
    assert "1 flips among 3 judged again: 1 from OK to NG" in invoke(replay, "results/0001", "--model", "sixteen.onnx")


@pytest.mark.usefixtures("line")
def test_a_hot_folder_reads_as_a_folder_does() -> None:
    invoke(run, "--model", "m.onnx", "--watch", "in", "--max-frames", "3")
    assert verdicts() == EXPECTED


@pytest.mark.usefixtures("line")
def test_golden_samples_are_read_so_too() -> None:
    for kind, name in (("good", "good"), ("bad", "ng")):
        save(np.asarray(Image.open(f"in/{name}.png")), Path(f"golden/{kind}/1.png"))
    golden = Path("golden")
    assert Golden(golden, Detector("m.onnx")).check().ok
    save(of_12_bits(good()), golden / "fresh/good/1.png")
    assert Golden(golden, Detector("m.onnx")).check().ok
    save(too_bright(), golden / "fresh/good/1.png")
    report = Golden(golden, Detector("m.onnx")).check()
    assert (report.ok, report.cause) == (False, "camera")
    assert "brighter than 12 bits" in report.lines[0]


@pytest.mark.usefixtures("line")
def test_a_calibration_reads_so_too_and_leaves_out_what_is_too_bright() -> None:
    for number in range(8):
        save(of_12_bits(good()) + np.uint16(number), Path(f"own/{number}.png"))
    save(too_bright(), Path("own/odd.png"))
    said = invoke(calibrate, "--good", "own", "--model", "m.onnx", "--out", "new.onnx")
    assert "left out: own/odd.png: brighter than 12 bits" in said
    card = Detector("new.onnx").card
    assert card.input.full_scale == WHITE
    assert (card.calibration.images, max(card.calibration.scores)) == (8, 0.0)


@pytest.mark.usefixtures("line")
def test_the_doctor_names_the_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_choice, "others", lambda: ())  # each is tried in a process of its own
    assert "12 of 16 bits" in CliRunner().invoke(doctor, ["--model", "m.onnx"]).output
    assert "of 16 bits" not in CliRunner().invoke(doctor, ["--model", "sixteen.onnx"]).output


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("a.png", []),
        ("a.tif", [cv2.IMWRITE_TIFF_COMPRESSION, 1]),
        ("a.tif", [cv2.IMWRITE_TIFF_COMPRESSION, 5]),
        ("a.tif", [cv2.IMWRITE_TIFF_COMPRESSION, 8]),
    ],
)
def test_every_kind_of_16_bits_keeps_its_low_byte(tmp_path: Path, name: str, how: list[int], channels: int) -> None:
    values = np.random.default_rng(0).integers(0, WHITE + 1, (20, 30, channels), dtype=np.uint16)
    values[0, 0, :3] = WHITE
    values[:, :, 3:] = 65535  # opaque
    assert cv2.imwrite(str(tmp_path / name), values, how)
    found = read_picture(tmp_path / name, WHITE)
    expected = np.rint(values[:, :, 2::-1] / WHITE * 255) if channels > 1 else np.rint(values / WHITE * 255)
    assert found.doubt is None
    np.testing.assert_array_equal(found.rgb, np.broadcast_to(expected, (20, 30, 3)))
    assert sixteen_bit_peak(tmp_path / name) == WHITE
    narrow = read_picture(tmp_path / name, 1023)
    above = int((values[:, :, :3] > 1023).any(axis=2).sum())
    assert narrow.doubt == (f"brighter than 10 bits: {above} pixels above 1023, up to 4095; the model expects 10 bits")
    assert narrow.rgb[0, 0].tolist() == [255, 255, 255]


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def test_16_bits_that_lie_on_their_side_are_turned(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, WHITE, (4, 6, 3), dtype=np.uint16)
    assert cv2.imwrite(str(tmp_path / "a.png"), values)
    exif, data = Image.Exif(), (tmp_path / "a.png").read_bytes()
    exif[0x0112] = 6  # turn clockwise to view
    (tmp_path / "b.png").write_bytes(data[:33] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + data[33:])
    upright, turned = (read_rgb(tmp_path / name, WHITE) for name in ("a.png", "b.png"))
    np.testing.assert_array_equal(turned, np.rot90(upright, -1))


def test_16_bits_whose_low_byte_is_not_to_be_had_are_refused(tmp_path: Path) -> None:
    head = (6).to_bytes(4, "big") + (4).to_bytes(4, "big") + bytes([16, 4, 0, 0, 0])  # grey and transparency
    pixels = zlib.compress(4 * (b"\0" + 6 * b"\x03\xe8\xff\xff"))
    file = tmp_path / "a.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    assert read_rgb(file).shape == (4, 6, 3)
    assert sixteen_bit_peak(file) is None
    with pytest.raises(ImageError, match=r"a\.png: expected grey, RGB or RGBA in 16 bits, got grey with transparency"):
        read_rgb(file, WHITE)
