"""The programs of the runtime, as pyproject.toml names them."""

from __future__ import annotations

import os

from vtad_runtime.contract.command_line.program import Program

# numpy's OpenBLAS starts a thread a core when it is loaded, and each keeps its core busy for 20 ms. We multiply no matrices.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

run = Program("vtad_runtime.commands.run:run")
replay = Program("vtad_runtime.commands.replay:replay")
calibrate = Program("vtad_runtime.commands.calibrate:calibrate")
doctor = Program("vtad_runtime.commands.doctor:doctor")
score = Program("vtad_runtime.commands.score:score")
