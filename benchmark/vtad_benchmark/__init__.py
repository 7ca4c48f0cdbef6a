"""vtad_benchmark: how well the presets detect beside what a user could pick instead, and beside published figures."""

from __future__ import annotations

import vtad_runtime  # noqa: F401  # before onnxruntime, whose telemetry it turns off
