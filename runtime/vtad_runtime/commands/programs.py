"""The programs of the runtime, as pyproject.toml names them."""

from __future__ import annotations

from vtad_runtime.contract.command_line.program import Program

run = Program("vtad_runtime.commands.run:run")
replay = Program("vtad_runtime.commands.replay:replay")
calibrate = Program("vtad_runtime.commands.calibrate:calibrate")
doctor = Program("vtad_runtime.commands.doctor:doctor")
score = Program("vtad_runtime.commands.score:score")
