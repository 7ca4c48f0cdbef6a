"""The program of the exporter, as pyproject.toml names it."""

from __future__ import annotations

from vtad_runtime.contract.command_line.program import Program

export = Program("vtad_export.commands.export:export")
