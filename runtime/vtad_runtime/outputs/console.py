"""What people at the terminal see of a run: a line a frame, or over files a bar, and then which could not be judged."""

from __future__ import annotations

from vtad_runtime.contract.log import plain_line, warning
from vtad_runtime.contract.progress import Bar
from vtad_runtime.verdict.judgement import Judgement, Output
from vtad_runtime.verdict.verdict import Verdict

SHOWN_ERRORS = 10


class FileProgress(Output):
    """A bar; at the end the first files that could not be judged."""

    def __init__(self, files: int) -> None:
        """`files` are to be judged."""
        self._errors: list[str] = []
        self._bar = Bar("judging", files)

    def write(self, judgement: Judgement) -> None:
        """One more is done. The first one begins the bar: before it engines may have been tried."""
        if not self._bar.done:
            self._bar.begin()
        self._bar.advance()
        if judgement.verdict is Verdict.ERROR:
            reason, file = str(judgement.reason), str(judgement.file)
            self._errors.append(reason if file in reason else f"{file}: {reason}")

    def close(self) -> None:
        """Say what could not be judged."""
        if self._bar.done:
            self._bar.end()
        for error in self._errors[:SHOWN_ERRORS]:
            warning("error", f"ERROR {error}")
        if len(self._errors) > SHOWN_ERRORS:
            warning("error", f"and {len(self._errors) - SHOWN_ERRORS} more; see results.csv")


def frame_line(judgement: Judgement) -> str:
    """One judgement for people."""
    words = [f"frame {judgement.number}" if judgement.frame or judgement.file else "no frame", str(judgement.verdict)]
    result = judgement.result
    if result is not None:
        age_ms = judgement.queue_age_ms + judgement.prepare_ms + judgement.infer_ms
        words += [
            f"score {result.score:.3f}",
            f"threshold {judgement.threshold:.3f}",
            f"p {result.p_value:.3g}",
            f"regions {len(result.regions)}",
            f"age {age_ms:.0f} ms",
        ]
    if judgement.dropped:
        words.append(f"dropped {judgement.dropped}")
    if judgement.alarm:
        words.append("ALARM")
    return "  ".join(words + [plain_line(word) for word in (judgement.file, judgement.reason) if word])
