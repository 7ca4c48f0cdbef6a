"""The program of the benchmark, as pyproject.toml names it."""

from __future__ import annotations

from vtad_runtime.contract.command_line.program import Program

bench = Program("vtad_benchmark.commands.bench:bench")
