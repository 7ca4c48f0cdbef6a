"""What a verdict does not need is computed when somebody looks: once, for that picture alone, and the same as at once."""

from __future__ import annotations

import copy
import dataclasses
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fake_camera import FakeSource, eventually
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image
from tiny_model import bad, good, make_card, references, with_references, write_model

from vtad_runtime import Detector, Verdict, watch
from vtad_runtime.contract.card import ScoreRule
from vtad_runtime.engine.engines import ENGINES
from vtad_runtime.engine.integrity import write_sealed
from vtad_runtime.engine.model import OpenModel, Outputs, Scored
from vtad_runtime.engine.onnxruntime_engine import OnnxSession
from vtad_runtime.engine.opening import open_model
from vtad_runtime.engine.subgraph import verdict_part
from vtad_runtime.line import wiring
from vtad_runtime.verdict.detector import Result
from vtad_runtime.verdict.explanation import MapsError
from vtad_runtime.verdict.geometry import Geometry
from vtad_runtime.verdict.judge import Judge, Rules
from vtad_runtime.verdict.judgement import Frame, Judgement
from vtad_runtime.verdict.mask import Mask

Pixels = NDArray[np.uint8]
needs_openvino = pytest.mark.skipif(not ENGINES["openvino"].installed(), reason="needs the extra openvino")
ENTRIES = ["cpu", pytest.param("openvino", marks=needs_openvino)]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_model(Path("m.onnx"))


class Counted:
    """A model that notes how many pictures each run took."""

    def __init__(self, model: OpenModel) -> None:
        self._model = model
        self.path, self.card, self.integrity, self.engine = model.path, model.card, model.integrity, model.engine
        self.callers = model.callers
        self.verdicts: list[int] = []
        self.runs: list[int] = []

    def run(self, batch: Pixels) -> Outputs:
        """Everything."""
        self.runs.append(len(batch))
        time.sleep(0.01)  # so that two who look at once would both be here
        return self._model.run(batch)

    def verdict(self, batch: Pixels) -> Scored:
        """Score and heatmap."""
        self.verdicts.append(len(batch))
        return self._model.verdict(batch)

    def open_whole(self) -> None:
        """Of the model."""
        self._model.open_whole()

    def references(self) -> Any:
        """Those of the model."""
        return self._model.references()


def counted(path: str = "m.onnx", engine: str = "cpu") -> tuple[Detector, Counted]:
    model = Counted(open_model(path, 1, engine=engine))
    return Detector(model), model


def faint(seed: int = 0) -> Pixels:
    """A good part that is not plain: no map of it is zero everywhere."""
    return good(32, 32) + np.random.default_rng(seed).integers(0, 20, (32, 32, 3), dtype=np.uint8)


def maps(result: Result) -> list[NDArray[Any]]:
    return [result.model_ssim_map, result.model_density_map, result.reconstruction]


def at_once(detector: Detector, rgb: Pixels) -> Result:
    (result,) = detector.judge([detector.prepare(rgb)], explain=True)
    return result


def same(one: list[NDArray[Any]], other: list[NDArray[Any]]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_good_parts_cost_the_verdict_alone_and_odd_ones_are_explained_in_one_run() -> None:
    detector, model = counted()
    results = detector.batch([faint(), bad(), faint(1), bad(x=40), faint(2)])
    assert [r.verdict for r in results] == ["OK", "NG", "OK", "NG", "OK"]
    assert (model.verdicts, model.runs) == ([5], [2])
    assert [r.regions[0].seen_by for r in results if r.regions] == ["both", "both"]
    assert all(len(maps(r)) == 3 for r in results if r.verdict is Verdict.NG)
    assert model.runs == [2]  # those have their maps
    unsure = Detector(model, review=0.5)(good(32, 32) + np.uint8(40))  # 1.6 of 2
    assert unsure.verdict is Verdict.UNSURE
    assert (unsure.regions[0].seen_by, model.runs) == ("both", [2, 1])


@pytest.mark.parametrize("engine", ENTRIES)
def test_maps_of_a_good_part_are_computed_at_the_first_look_and_once(engine: str) -> None:
    detector, model = counted(engine=engine)
    pictures = [faint(i) for i in range(3)]
    expected = [at_once(detector, rgb) for rgb in pictures]
    assert (model.verdicts, model.runs) == ([], [1, 1, 1])
    given = pictures[1].copy()
    result = detector.batch([pictures[0], given, pictures[2]])[1]
    given[:] = 0  # what was judged is looked at, not what the array holds by then
    assert (result.score, model.runs[3:]) == (expected[1].score, [])
    copied = dataclasses.replace(result, error="of another kind")
    assert same(maps(copied), maps(expected[1]))
    assert same(maps(result), maps(expected[1]))
    assert np.array_equal(result.ssim_map, expected[1].ssim_map)
    assert np.array_equal(result.density_map, expected[1].density_map)
    assert same(maps(copy.deepcopy(result)), maps(result))
    assert model.runs[3:] == [1]


def test_threads_that_look_at_once_share_one_run() -> None:
    detector, model = counted()
    result = detector(faint())
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda _: maps(result), range(8)))
    assert model.runs == [1]
    assert all(same(one, seen[0]) for one in seen)


def test_a_masked_picture_is_masked_in_all_maps_whoever_looks_and_whenever() -> None:
    card = dataclasses.replace(make_card(), score_rule=ScoreRule(cell=1, top_share=1e-9))
    write_model(Path("cells.onnx"), card)
    half = np.zeros((32, 32), np.uint8)
    half[:, :16] = 255
    Image.fromarray(half).save("mask.png")
    detector, model = counted("cells.onnx")
    mask = Mask(Path("mask.png"), Geometry(), card)
    later, now = mask.apply(detector(faint())), mask.apply(at_once(detector, faint()))
    assert (later.verdict, model.runs) == ("OK", [1])
    assert same(maps(later), maps(now))
    assert later.model_ssim_map[:, 16:].max() <= later.model_ssim_map[:, :16].min()
    assert model.runs == [1, 1]


def test_a_fixed_batch_is_filled_up_by_both_entries() -> None:
    card = make_card()
    outputs = tuple(dataclasses.replace(o, shape=(2, *o.shape[1:])) for o in card.outputs)
    write_model(Path("two.onnx"), dataclasses.replace(card, outputs=outputs), batch=2)
    (fixed, _), (free, _) = counted("two.onnx"), counted()
    pictures = [faint(0), bad(32, 32), faint(1)]
    for one, other in zip(fixed.batch(pictures), free.batch(pictures), strict=True):
        assert (one.score, one.regions) == (other.score, other.regions)
        assert same(maps(one), maps(other))


@pytest.mark.parametrize("engine", ENTRIES)
def test_both_entries_say_the_same(engine: str) -> None:
    session = open_model("m.onnx", 1, engine=engine)
    batch = np.stack([p.transpose(2, 0, 1) for p in (faint(), bad(32, 32), faint(1))])
    verdict, everything = session.verdict(batch), session.run(batch)
    assert np.array_equal(verdict.score, everything.score)
    assert np.array_equal(verdict.heatmap, everything.heatmap)


def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many outputs the graphs have that onnxruntime opens."""
    found, works = list[int](), ort.InferenceSession

    def counting(*args: Any, **options: Any) -> Any:
        session = works(*args, **options)
        found.append(len(session.get_outputs()))
        return session

    monkeypatch.setattr(ort, "InferenceSession", counting)
    return found


def test_a_start_that_only_judges_opens_the_part_for_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    found = opened(monkeypatch)
    with_references(Path("r.onnx"), references().to_text())
    detector = Detector("r.onnx")
    result = detector(faint())
    checked = detector.check_references()
    assert checked is not None
    assert (checked.ok, found) == (True, [2])
    write_model(Path("r.onnx"), make_card(16, 16))  # another model takes its place: nothing of it is seen
    assert result.reconstruction.shape == (32, 32, 3)
    assert found == [2, 5]


def test_on_a_line_the_whole_graph_is_open_before_the_first_odd_part(monkeypatch: pytest.MonkeyPatch) -> None:
    found, source, seen = opened(monkeypatch), FakeSource(good()), list[str]()
    monkeypatch.setattr(wiring, "open_device", lambda options: source)

    def take(judgement: Judgement) -> None:
        seen.append(str(judgement.verdict))
        eventually(lambda: found == [2, 5])  # while every part was OK
        source.put(bad())

    watch(0, Detector(write_model(Path("line.onnx"))), take, max_frames=2)
    assert (seen, found) == (["OK", "NG"], [2, 5])


def test_maps_that_are_not_finite_cost_their_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.load("m.onnx")
    next(n for n in model.graph.node if n.output[0] == "ssim_map").op_type = "Log"  # of zero
    onnx.save(model, "m.onnx")
    write_sealed(Path("m.onnx"), make_card())
    detector, _ = counted()
    result, said = detector(good()), "expected finite maps, got NaN or infinity"
    assert result.verdict == "OK"
    for _ in range(2):
        with pytest.raises(MapsError, match=said):
            result.ssim_map  # noqa: B018 - looking is what is tested
    for odd in (detector(bad()), at_once(detector, good())):
        assert (odd.verdict, odd.regions) == ("ERROR", ())
        assert str(odd.error).startswith(said)
    (low,) = Judge("in", detector, Rules(threshold=-1.0)).judge([Frame(1, 0.0, 0.0, 0.0, 0, good())])
    assert (low.verdict, low.reason) == ("ERROR", said)


def test_a_frame_that_comes_late_costs_no_more() -> None:
    detector, model = counted()
    late = Judge("camera 0", detector, Rules(max_age_s=1.0))
    (judgement,) = late.judge([Frame(1, 0.0, time.monotonic() - 9, 0.0, 0, faint())])
    assert (judgement.verdict, model.runs) == ("STALE", [])


@pytest.mark.parametrize(("save", "runs"), [("all", 3), ("ng", 1), ("none", 1)])
def test_only_pictures_whose_panel_is_drawn_are_explained(
    save: str, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, works = list[int](), OnnxSession.run

    def run(self: OnnxSession, batch: Pixels) -> Outputs:
        found.append(len(batch))
        return works(self, batch)

    monkeypatch.setattr(OnnxSession, "run", run)
    Path("in").mkdir()
    for name, rgb in (("1", good()), ("2", bad()), ("3", good())):
        Image.fromarray(rgb).save(f"in/{name}.png")
    summary = watch("in", "m.onnx", out="out", view="panel", save=save)
    assert (summary.verdicts, sum(found)) == ({"OK": 2, "NG": 1}, runs)


def test_the_part_of_a_file_is_a_file_with_less_in_it() -> None:
    data = Path("m.onnx").read_bytes()
    part = verdict_part(data)
    assert part is not None
    small, whole = onnx.load_from_string(part.model), onnx.load_from_string(data)
    onnx.checker.check_model(small)
    assert [o.name for o in small.graph.output] == ["score", "heatmap"]
    assert [(p.name, p.type) for p in part.outputs] == [(o.name, "tensor(float)") for o in whole.graph.output]
    kept = {n.output[0] for n in small.graph.node}
    assert {n.output[0] for n in whole.graph.node} - kept == {"ssim_map", "red", "density_map", "reconstruction"}
    left_out = {t.name for t in whole.graph.initializer} - {t.name for t in small.graph.initializer}
    assert left_out == {"white", "zero", "one"}
    assert small.metadata_props == whole.metadata_props
    assert (small.graph.input, small.opset_import) == (whole.graph.input, whole.opset_import)


def test_the_part_keeps_the_shapes_by_which_onnxruntime_fuses_operations() -> None:
    """Without them it adds a convolution's bias and a sum in another order, and the part is a bit off the whole."""
    whole = onnx.shape_inference.infer_shapes(onnx.load("m.onnx"))
    part = verdict_part(whole.SerializeToString())
    assert part is not None
    assert whole.graph.value_info
    assert onnx.load_from_string(part.model).graph.value_info == whole.graph.value_info


def _branch(model: onnx.ModelProto) -> None:
    """The score by an operation with graphs of its own."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch"])
    body = helper.make_graph([helper.make_node("Identity", ["peak"], ["x"])], "body", [], [value])
    yes = helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    node = next(n for n in model.graph.node if n.output[0] == "score")
    node.CopyFrom(helper.make_node("If", ["yes"], ["score"], then_branch=body, else_branch=body))
    model.graph.node.insert(0, yes)


def _everything_needed(model: onnx.ModelProto) -> None:
    for node in [n for n in model.graph.node if n.output[0] in ("ssim_map", "density_map", "reconstruction", "red")]:
        model.graph.node.remove(node)
    del model.graph.output[2:]


@pytest.mark.parametrize("change", [_branch, _everything_needed])
def test_a_graph_that_has_no_part_to_take_is_kept_whole(change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load("m.onnx")
    change(model)
    assert verdict_part(model.SerializeToString()) is None


def test_what_is_no_onnx_file_has_no_part() -> None:
    data = Path("m.onnx").read_bytes()
    for other in (b"", b"hello", b"\xff" * 20, data[: len(data) // 2], data + data):
        assert verdict_part(other) is None


def test_an_operation_with_graphs_of_its_own_judges_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.load("m.onnx")
    _branch(model)
    onnx.save(model, "b.onnx")
    write_sealed(Path("b.onnx"), make_card())
    found = opened(monkeypatch)
    one, other = Detector("b.onnx")(bad()), Detector("m.onnx")(bad())
    assert (one.score, one.regions) == (other.score, other.regions)
    assert found == [5, 2, 5]  # one for both entries, and one for each


def test_two_threads_that_look_first_open_the_whole_once(monkeypatch: pytest.MonkeyPatch) -> None:
    session, found = open_model("m.onnx", 1), opened(monkeypatch)
    batch, start = np.zeros((1, 3, 32, 32), np.uint8), threading.Barrier(4)

    def look(_: int) -> float:
        start.wait()
        return float(session.run(batch).score[0])

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(look, range(4)))) == 1
    assert found == [5]
