"""What tests of training, export and the commands share: a detector that trains in a second, commands, a full disk."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from vtad.config import Config, preset

TINY: dict[str, Any] = {
    "image_height": 32,
    "image_width": 32,
    "symmetries": "none",
    "patch_size": 16,
    "embed_dim": 16,
    "heads": 2,
    "depth": 1,
    "decoder_depth": 1,
    "mlp_dim": 32,
    "registers": 2,
    "mixture_size": 2,
    "patches": 32,
    "components": 2,
    "picture_directions": 2,
    "feature_dim": 16,
    "batch_size": 4,
    "warmup": 2,
    "epochs": 2,
    "val_split": 0.25,  # 4 of the 16 pictures
    "false_alarms": 0.15,
}


def tiny(name: Any = "scratch", category: str = "pill", **changes: Any) -> Config:
    """A configuration of a preset that trains 2 epochs of 3 steps on the fixture `pills`."""
    return preset(name, category, **{**TINY, **changes})


def flags(**changes: Any) -> list[str]:
    """The same configuration as options of vtad-train."""
    values = {"preset": "scratch", **TINY, **changes}
    return [part for k, v in values.items() for part in (f"--{k.replace('_', '-')}", str(v))]


def invoke(command: click.Command, *arguments: object) -> Result:
    """Run a command to its end; whatever escapes as a traceback fails the test."""
    result = CliRunner().invoke(command, [str(a) for a in arguments])
    if isinstance(result.exception, Exception):
        raise result.exception
    assert "Traceback" not in result.output
    return result


def done(command: click.Command, *arguments: object) -> str:
    """The standard output of a command that succeeds."""
    result = invoke(command, *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def error(exit_code: int, command: click.Command, *arguments: object) -> str:
    """The one line on stderr of a command that fails with this exit code."""
    result = invoke(command, *arguments)
    assert result.exit_code == exit_code, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    return lines[0]


@contextmanager
def small_disk(room: int) -> Iterator[None]:
    """No file can grow beyond `room` bytes: what is written up to there stays, then the write fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def disk_fills_up(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, *, call: int = 1, room: int = 500) -> None:
    """From its `call`-th call on, the function `name` of `owner` runs on a small disk."""
    function, calls = getattr(owner, name), 0

    def on_a_small_disk(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < call:
            return function(*args, **kwargs)
        with small_disk(room):
            return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, on_a_small_disk)
