"""The web example: its resizing is vtad's to the pixel (Node.js), and a browser judges files and a camera as vtad-run does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from chromium import WAIT_MS, in_chromium, launched
from numpy.typing import NDArray
from PIL import Image
from tiny_model import make_card, write_model

from bench.browser import WEB, judged, served
from vtad_export.proof.exporter import Export
from vtad_runtime import Detector
from vtad_runtime.contract.card import Input
from vtad_runtime.contract.fit import fit_image

NODE = shutil.which("node")
Pixels = NDArray[np.uint8]

MARKED = """(() => {
  const heat = document.getElementById("heat"), context = heat.getContext("2d");
  return context.getImageData(0, 0, heat.width, heat.height).data.filter((v, i) => i % 4 === 3 && v).length;
})()"""

in_node = pytest.mark.skipif(NODE is None, reason="needs Node.js")
needs_web = pytest.mark.skipif(
    not (WEB / "node_modules" / "onnxruntime-web").is_dir(), reason="needs onnxruntime-web: make web"
)


def node(script: str, *arguments: object) -> str:
    """What a script prints that imports the example's module as `vtad`."""
    assert NODE is not None
    code = (
        f"import * as vtad from {json.dumps((WEB / 'vtad.js').as_uri())}; import {{ readFileSync }} from 'fs'; {script}"
    )
    command = [NODE, "--input-type=module", "-e", code, *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def noise(width: int, height: int) -> Pixels:
    return np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)


FITTED = [  # width and height of the picture; the input
    (512, 512, Input("image", 384, 384, "rgb", "area-linear", "stretch", None)),
    (128, 96, Input("image", 64, 48, "rgb", "area-linear", "stretch", None)),  # twice
    (192, 96, Input("image", 64, 48, "rgb", "area-linear", "stretch", None)),  # whole factors that differ
    (97, 83, Input("image", 32, 40, "rgb", "area-linear", "stretch", None)),
    (20, 30, Input("image", 64, 40, "rgb", "area-linear", "stretch", None)),
    (16, 32, Input("image", 32, 64, "rgb", "area-linear", "stretch", None)),
    (100, 20, Input("image", 48, 48, "rgb", "area-linear", "stretch", None)),  # one axis shrinks, one grows
    (48, 48, Input("image", 48, 48, "rgb", "area-linear", "stretch", None)),
    (101, 67, Input("image", 48, 32, "rgb", "area-linear", "letterbox", None)),
    (61, 90, Input("image", 48, 32, "rgb", "area-linear", "centre_crop", None)),
    (90, 61, Input("image", 48, 32, "rgb", "area-linear", "letterbox", (5, 7, 70, 41))),
]


@in_node
def test_a_picture_is_fitted_to_the_input_as_by_vtad_to_the_pixel(tmp_path: Path) -> None:
    cases = []
    for number, (width, height, spec) in enumerate(FITTED):
        file = tmp_path / str(number)
        rgba = np.dstack([noise(width, height), np.full((height, width), 255, np.uint8)])
        file.write_bytes(rgba.tobytes())
        cases.append({"file": str(file), "width": width, "height": height, "input": vars(spec)})
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    out = node(
        "for (const { file, width, height, input } of JSON.parse(readFileSync(process.argv[1])))"
        " console.log(Buffer.from(vtad.fit({ data: readFileSync(file), width, height }, input).data).toString('hex'))",
        tmp_path / "cases.json",
    )
    for line, (width, height, spec) in zip(out.splitlines(), FITTED, strict=True):
        expected, _ = fit_image(noise(width, height), spec)
        got = np.frombuffer(bytes.fromhex(line), np.uint8).reshape(expected.shape)
        assert np.array_equal(got, expected), (width, height, spec)


@in_node
def test_the_card_is_read_from_the_file(tmp_path: Path) -> None:
    model = write_model(tmp_path / "tiny.onnx")
    script = "console.log(vtad.metadata(readFileSync(process.argv[1]))['vtad.card'])"
    assert json.loads(node(script, model))["identity"]["category"] == make_card().identity.category
    (tmp_path / "cut.onnx").write_bytes(model.read_bytes()[:-1000])
    script = (
        "try { vtad.metadata(readFileSync(process.argv[1])); console.log('read') } catch (e) { console.log(e.message) }"
    )
    assert "expected an ONNX file" in node(script, __file__)


def test_the_version_of_onnxruntime_web_is_pinned() -> None:
    package = json.loads((WEB / "package.json").read_text())
    assert re.fullmatch(r"\d+\.\d+\.\d+", package["dependencies"]["onnxruntime-web"])


def write_camera(path: Path, rgb: Pixels) -> Path:
    """A film of one picture for Chromium's camera: YUV4MPEG2, two frames, grey by the mean of RGB."""
    height, width = rgb.shape[:2]
    luma = rgb.mean(axis=2).clip(16, 235).astype(np.uint8).tobytes()
    frame = b"FRAME\n" + luma + b"\x80" * (width * height // 2)
    path.write_bytes(f"YUV4MPEG2 W{width} H{height} F10:1 Ip A1:1 C420jpeg\n".encode() + 2 * frame)
    return path


@pytest.mark.service
@in_chromium
@needs_web
@pytest.mark.slow
def test_a_browser_judges_files_and_its_camera_as_the_runtime_does(
    exported: Export, pills: Path, tmp_path: Path
) -> None:
    detector = Detector(exported.path, review=0)
    files = [*sorted((pills / "pill" / "test").glob("*/*.png"))[:3], tmp_path / "odd.png"]
    Image.fromarray(noise(97, 20)).save(files[-1])
    camera = write_camera(tmp_path / "camera.y4m", noise(64, 48))
    fake = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={camera}",
    ]
    with served() as site, launched(*fake) as browser:
        page = browser.new_page()
        page.set_default_timeout(WAIT_MS)
        complaints: list[str] = []
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.goto(site)
        page.set_input_files("#model", str(exported.path))
        page.wait_for_selector("#picture:enabled")
        assert exported.card.identity.category in page.inner_text("#card")
        verdicts = set()
        for file in files:
            got, expected = judged(page, file), detector(file)
            assert got["score"] == pytest.approx(expected.score, abs=1e-3)
            assert np.abs(np.ravel(expected.model_heatmap) - got["heatmap"]).max() <= 1e-3
            assert (got["verdict"], got["p"]) == (expected.verdict, pytest.approx(expected.p_value))
            assert page.inner_text("#verdict") == expected.verdict
            marked = page.evaluate(MARKED)
            level = exported.card.calibration.pixel_threshold / 2
            assert abs(marked - int((expected.model_heatmap > level).sum())) <= 0.05 * expected.model_heatmap.size
            verdicts.add(got["verdict"])
        assert verdicts == {"OK", "NG"}
        page.click("#self-test")
        page.wait_for_function("document.getElementById('said').textContent.includes('8 reference pictures')")
        assert float(page.inner_text("#said").rsplit(" ", 1)[1]) <= 1e-3
        assert page.evaluate(MARKED) == 0  # no map of an earlier picture lies over another
        page.evaluate("window.last = null")
        page.click("#camera")
        page.wait_for_function("window.last && window.last.picture.width === 64")
        page.click("#camera")
        seen = page.evaluate("({ score: last.score, data: [...last.picture.data] })")
        rgb = np.array(seen["data"], np.uint8).reshape(48, 64, 4)[:, :, :3]
        assert rgb.std() > 10  # the film, no black frame
        assert seen["score"] == pytest.approx(detector(rgb).score, abs=1e-3)
    assert complaints == []
