"""Every ratio of `make bench` as one table.

    python -m bench                              # all parts, on the newest export below ./runs
    python -m bench latency folder               # some of them
    python -m bench --write docs/benchmarks.md   # all, and into the document

Both sides of a ratio run in turns, so that other work on the machine costs them alike. What cannot be measured here has a row
that says why.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench import bare, folder, latency, memory, start, training
from bench.peers import compare
from bench.table import Part, Row, put, rows, table
from vtad.version import git
from vtad_runtime.contract.errors import VtadError
from vtad_runtime.engine.callers import cores
from vtad_runtime.engine.engines import processor
from vtad_runtime.engine.opening import open_model

PARTS: tuple[Part, ...] = tuple(module.PART for module in (latency, start, memory, folder, compare, training))
LIBRARIES = ("onnxruntime", "openvino", "torch", "numpy", "opencv-python-headless")


def about(asked: argparse.Namespace) -> str:
    """What was measured with, and when. Raises VtadError: no model."""
    model = bare.model_of(asked)
    card = open_model(model, asked.threads).card
    made = f"trained by {(card.identity.git_commit or 'an unknown commit')[:7]} on {card.identity.created[:10]}"
    versions = ", ".join(f"{name} {_version(name)}" for name in LIBRARIES)
    return (
        f"{processor()}, {cores()} cores; {sys.platform}, Python {sys.version.split()[0]}, {versions}. Commit {commit()}, "
        f"{time.strftime('%d %B %Y').lstrip('0')}.\n"
        f"Model: {card.identity.category}, {card.input.width} x {card.input.height}, {made}; pictures of "
        f"{asked.side} x {asked.side}, {asked.threads} threads. Command: `make bench`."
    )


def commit() -> str:
    """Of this checkout."""
    return (git("rev-parse", "--short=7", "HEAD") or "unknown") + (
        " and changes" if git("status", "--porcelain") else ""
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def options() -> argparse.ArgumentParser:
    """Those of all parts."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [part.name for part in PARTS]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(names)}  [default: all]")
    parser.add_argument("--model", type=Path, help="an exported .onnx  [default: the newest]")
    parser.add_argument("--good", type=Path, help="folder of good pictures  [default: those of the model's training]")
    parser.add_argument("--threads", type=int, default=2, help="[default: %(default)s]")
    parser.add_argument("--side", type=int, default=1024, help="pixels of the pictures  [default: %(default)s]")
    parser.add_argument("--frames", type=int, default=150, help="that are judged, for start  [default: %(default)s]")
    parser.add_argument("--starts", type=int, default=15, help="of a process, for start  [default: %(default)s]")
    parser.add_argument("--pictures", type=int, default=300, help="in hundreds, for folder  [default: %(default)s]")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="with the files of bench/peers/export.py")
    parser.add_argument("--peers-model", type=Path, metavar="MODEL", help="an export of 256 x 256  [default: --model]")
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT", help="of an earlier commit, for training")
    parser.add_argument("--category", default="bottle", help="whose pictures training takes  [default: %(default)s]")
    parser.add_argument(
        "--write", type=Path, metavar="FILE.md", help="put the table between its markers; all parts only"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and write it."""
    parser = options()
    asked = parser.parse_intermixed_args(arguments)
    named = {part.name: part for part in PARTS}
    if unknown := [name for name in asked.parts if name not in named]:
        parser.error(f"PART: expected some of {', '.join(named)}, got {', '.join(unknown)}")
    if asked.parts and asked.write:
        parser.error("--write: expected all parts, got some: the table would lose its other rows")
    chosen, found = [named[name] for name in asked.parts or named], list[Row]()
    try:
        head = about(asked)
        for part in chosen:
            print(f"bench: {part.name}", file=sys.stderr, flush=True)
            found += rows(part, asked)
        text = table(head, found)
        print(text)
        if asked.write:
            put(asked.write, text)
    except VtadError as e:
        sys.exit(f"bench: {e}")


if __name__ == "__main__":
    main()
