"""vtad-score over S3 (moto's server on loopback) and on a Ray cluster of two nodes on this machine, one of them killed."""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from moto import settings
from moto.server import ThreadedMotoServer
from PIL import Image
from pyarrow import fs
from tiny_model import bad, good, write_model

from vtad_runtime.batch.run import ScoreOptions
from vtad_runtime.batch.run import score as score_pictures
from vtad_runtime.batch.source import open_source
from vtad_runtime.commands.score import score
from vtad_runtime.contract.errors import VtadError

MANY = 500  # pictures: an idle machine is done with few before a cluster ends

pytestmark = pytest.mark.service


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_model(Path("m.onnx"))
    return tmp_path


def rows() -> list[dict[str, Any]]:
    found = [row for part in sorted(Path("out/rows").glob("*.parquet")) for row in pq.read_table(part).to_pylist()]
    return sorted(found, key=lambda row: int(row["frame"]))


def png(picture: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


# S3


class Bucket:
    """A bucket `parts` of a server of its own."""

    def __init__(self) -> None:
        self.server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self.server.start()
        host, port = self.server.get_host_and_port()
        self.options = f"endpoint_override={host}:{port}&scheme=http&region=us-east-1"
        self.system, _ = fs.FileSystem.from_uri(f"s3://key:sesame@parts?{self.options}&allow_bucket_creation=true")
        self.system.create_dir("parts")

    def address(self, prefix: str = "parts/line 1") -> str:
        return f"s3://key:sesame@{prefix.replace(' ', '%20')}?{self.options}"

    def put(self, key: str, data: bytes) -> None:
        with self.system.open_output_stream(f"parts/line 1/{key}") as stream:
            stream.write(data)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    made = Bucket()
    yield made
    made.server.stop()


def filled(bucket: Bucket) -> None:
    for i in range(1, 13):
        bucket.put(f"a/{i}.png", png(bad() if i % 4 == 0 else good()))
    bucket.put("a/11.png", png(good())[:90])
    for key in (
        "test/x.png",
        "ground_truth/x.png",
        "old/heatmaps/x.png",
        "old/results.jsonl",
        ".hidden/x.png",
        "notes.txt",
    ):
        bucket.put(key, png(good()))


@pytest.mark.usefixtures("here")
def test_pictures_of_a_bucket_are_judged_as_those_of_a_folder(bucket: Bucket) -> None:
    filled(bucket)
    given = [bucket.address(), "--out", "out", "--model", "m.onnx", "--partition", "5", "--workers", "1"]
    result = CliRunner().invoke(score, given)
    assert result.exit_code == 3
    assert "3 of 3 partitions written: OK 9, NG 3, ERROR 1" in result.output
    assert (
        "left out, being masks or earlier results: s3://parts/line 1/ground_truth, s3://parts/line 1/old"
        in result.output
    )
    found = rows()
    assert [row["file"] for row in found] == [
        *(f"s3://parts/line 1/a/{i}.png" for i in range(1, 13)),
        "s3://parts/line 1/test/x.png",
    ]
    assert found[10]["reason"].startswith("s3://parts/line 1/a/11.png: expected a whole picture, got a damaged file")
    assert {row["source"] for row in found} == {f"s3://parts/line 1?{bucket.options}"}
    everything = result.output + Path("out/score.json").read_text() + str(found)
    assert "sesame" not in everything
    # The same tree as a folder is the same list.
    for name in (
        "test/x.png",
        "ground_truth/x.png",
        "old/heatmaps/x.png",
        "old/results.jsonl",
        ".hidden/x.png",
        "notes.txt",
    ):
        Path("in", name).parent.mkdir(parents=True, exist_ok=True)
        Path("in", name).touch()
    Path("in/a").mkdir()
    for i in range(1, 13):
        Path(f"in/a/{i}.png").touch()
    assert open_source("in").listed() == open_source(bucket.address()).listed()


@pytest.mark.usefixtures("here")
def test_storage_that_fails_is_one_line_without_secrets_and_the_run_goes_on_later(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(bucket)
    options = ["--out", "out", "--model", "m.onnx", "--partition", "5", "--workers", "1"]
    for address, said in (
        ("parts/none", "expected storage that can be read, got nothing there; check bucket and prefix"),
        ("nowhere", "expected storage that can be read, got nothing there; check bucket and prefix"),
    ):
        result = CliRunner().invoke(score, [bucket.address(address), *options])
        assert result.exit_code == 2
        assert said in result.output.splitlines()[-1]
        assert not Path("out/score.json").exists()

    def deny_after_the_first() -> bool:
        if list(Path("out").glob("rows/*")):
            monkeypatch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)  # from now on nobody may do anything
        return False

    with pytest.raises(VtadError, match=r"denied|refusal") as caught:
        score_pictures(
            ScoreOptions(bucket.address(), Path("out"), Path("m.onnx"), partition=5, workers=1), deny_after_the_first
        )
    assert caught.value.exit_code == 3
    assert len(rows()) == 5
    result = CliRunner().invoke(score, [bucket.address(), *options[:1], "other", *options[2:]])
    assert result.exit_code == 2
    assert "got a refusal; check the credentials" in result.output.splitlines()[-1]
    assert "sesame" not in result.output
    monkeypatch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", float("inf"))
    bucket.system.delete_file("parts/line 1/a/7.png")
    assert CliRunner().invoke(score, [bucket.address(), *options]).exit_code == 3
    found = rows()
    assert [row["frame"] for row in found] == list(range(1, 14))
    assert found[6]["reason"] == "s3://parts/line 1/a/7.png: expected a picture file, got nothing there"
    bucket.server.stop()
    result = CliRunner().invoke(score, [bucket.address(), *options[:1], "other", *options[2:]])
    assert result.exit_code == 2
    assert "got no connection" in result.output.splitlines()[-1]
    assert "sesame" not in result.output


# Ray


@pytest.fixture(scope="module")
def head() -> Iterator[Any]:
    """A cluster of one node with one processor; a node that is gone is noticed within a second. The last test ends it."""
    noticed = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made: Any = import_module("ray.cluster_utils").Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": noticed, "include_dashboard": False}
        )
        yield made
        made.shutdown()


@pytest.fixture
def cluster(head: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The cluster that --on ray joins."""
    monkeypatch.setenv("RAY_ADDRESS", head.address)
    return head


def at_work(raylet: int) -> list[int]:
    """The processes of a node that judge a partition just now: Ray names them by what they run."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                parent = int(re.search(r"^PPid:\s*(\d+)", (process / "status").read_text(), re.MULTILINE)[1])  # type: ignore[index]
                name = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if parent == raylet and name.startswith(b"ray::Actor.score"):
                found.append(int(process.name))
    return found


@pytest.mark.usefixtures("here")
def test_a_node_that_is_killed_costs_no_row_and_none_comes_twice(
    cluster: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    node = cluster.add_node(num_cpus=1)
    noise = np.random.default_rng(0).integers(90, 110, (400, 400, 3), dtype=np.uint8)
    Path("in").mkdir()
    data = png(noise)
    for i in range(120):
        Path(f"in/{i}.png").write_bytes(data)
    Path("in/7.png").write_bytes(data[:500])
    (raylet,) = (process.process.pid for process in node.all_processes["raylet"])
    written: list[int] = []

    def kill_in_the_middle() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            busy = at_work(raylet) if list(Path("out").glob("rows/*")) else []
            if busy:
                for process in (*busy, raylet):
                    os.kill(process, signal.SIGKILL)
                written.append(len(list(Path("out").glob("rows/*"))))
                return
            time.sleep(0.01)

    killer = threading.Thread(target=kill_in_the_middle)
    killer.start()
    capfd.readouterr()
    tally = score_pictures(ScoreOptions("in", Path("out"), Path("m.onnx"), partition=5, on="ray"))
    killer.join()
    assert written
    assert 0 < written[0] < 24
    assert (tally.written, tally.verdicts.total(), tally.verdicts["ERROR"]) == (24, 120, 1)
    assert [row["frame"] for row in rows()] == list(range(1, 121))
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("here")
def test_a_cluster_that_is_gone_is_one_line_and_the_rest_is_judged_without_it(cluster: Any) -> None:
    Path("in").mkdir()
    for i in range(MANY):
        Path(f"in/{i}.png").write_bytes(png(good()))

    def end_after_the_first() -> bool:
        if list(Path("out").glob("rows/*")) and cluster.head_node is not None:
            cluster.head_node.kill_raylet()
            cluster.head_node.kill_gcs_server()
            cluster.head_node = None
        return False

    options = ScoreOptions("in", Path("out"), Path("m.onnx"), partition=1, on="ray")
    with pytest.raises(VtadError, match="the Ray cluster: expected a result, got that its process ended") as caught:
        score_pictures(options, end_after_the_first)
    assert caught.value.exit_code == 3
    assert 0 < len(rows()) < MANY
    result = CliRunner().invoke(score, ["in", "--out", "out", "--on", "ray"])
    assert result.exit_code == 2
    assert "expected a Ray cluster that answers, got Connection refused" in result.output.splitlines()[-1]
    assert CliRunner().invoke(score, ["in", "--out", "out", "--workers", "1"]).exit_code == 0
    assert [row["frame"] for row in rows()] == list(range(1, MANY + 1))
