"""The program of the exporter, as pyproject.toml names it."""

from __future__ import annotations

from vtad_runtime.contract.program import Program

export = Program("vtad_export.commands.export:export")
