"""What others get of one judgement: its row, who says it, and a number by which gaps and repeats are seen."""

from __future__ import annotations

import socket
import uuid
from typing import Any

from vtad_runtime.contract.card import Card
from vtad_runtime.contract.credentials import without_credentials
from vtad_runtime.contract.errors import VtadError
from vtad_runtime.verdict.judgement import Judgement


class OutputError(VtadError):
    """An output that cannot be begun: a wrong address, an extra that is not installed, a spool in use. One line."""


class Messages:
    """Numbers the judgements of one run of the program for one receiver."""

    def __init__(self, card: Card | None) -> None:
        """`card` is that of the model that judges; without it the messages do not name the model."""
        self._run, self._sequence = uuid.uuid4().hex[:12], 0
        self._who = {
            "host": socket.gethostname(),
            "category": card.identity.category if card else None,
            "weights": card.weights_sha256[:12] if card else None,
        }

    def of(self, judgement: Judgement) -> dict[str, Any]:
        """The message, a JSON object; docs/results.md documents the fields. Every call takes the next number."""
        self._sequence += 1
        row = judgement.row()
        return {
            "id": f"{self._run}-{self._sequence}",
            "run": self._run,
            "sequence": self._sequence,
            **self._who,
            **row,
            "source": without_credentials(row["source"]),
        }
