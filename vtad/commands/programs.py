"""The programs of training, as pyproject.toml names them."""

from __future__ import annotations

from vtad_runtime.contract.command_line.program import Program

data = Program("vtad.commands.data:data")
train = Program("vtad.commands.train:train")
evaluate = Program("vtad.commands.evaluate:evaluate")
sweep = Program("vtad.commands.sweep:sweep")
