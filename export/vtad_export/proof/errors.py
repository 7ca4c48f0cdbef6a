"""What a failed proof raises."""

from __future__ import annotations

from vtad_runtime.contract.errors import FAILED, VtadError


class ParityError(VtadError):
    """The artefact does not run or does not agree with torch. The message is one line: where and by how much."""

    exit_code = FAILED


class RoundingError(ParityError):
    """A matter of the precision: outputs drift farther than it may, verdicts differ, or float16 overflows."""
