"""Judgements on their way to a receiver that may be slow or gone: a bounded queue on disk, delivered in order by a thread.

Policy: the oldest message is dropped last. When the spool is full, new messages are refused and counted, and those that
wait keep their place; the receiver sees the gap in their numbers. A message stays on disk until it is confirmed, so
after a crash the last ones may come twice, with the same `id`.

Durability: `put` hands the message to the operating system and does not wait for the disk, so a killed program loses nothing.
What has to wait is synced about once a second by the delivery thread; a power cut loses at most that second and one
attempt to deliver.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from vtad_runtime.contract.disk.files import sync
from vtad_runtime.contract.errors import one_line
from vtad_runtime.contract.log import warning
from vtad_runtime.receivers.message_queue import DiskError, MessageQueue

SPOOL_BYTES = 64 * 2**20  # what may wait for one receiver
WAITS_S = 0.5, 30.0  # between attempts to deliver
SYNC_S = 1.0  # between two syncs of what waits
MAX_REASONS = 20  # different reasons logged while a receiver is gone; a reason may hold anything
Event = Literal[
    "waiting", "lost", "back", "rejected", "full", "room", "disk_failed", "disk_works", "damaged", "taken_over", "left"
]  # fmt: skip


class NotDelivered(Exception):
    """The receiver did not confirm; the messages behind the `confirmed` first of the batch are tried again."""

    def __init__(self, reason: str, confirmed: int = 0) -> None:
        super().__init__(reason)
        self.confirmed = confirmed


class Rejected(NotDelivered):
    """The receiver will never take the message behind the `confirmed` first of the batch; it is dropped and counted."""


Deliver = Callable[[Sequence[bytes]], None]  # JSON objects, oldest first; raises NotDelivered or Rejected


class Spool:
    """Takes messages at once and delivers them when it can. Thread-safe."""

    def __init__(
        self,
        folder: Path,
        deliver: Deliver,
        max_bytes: int,
        name: str,
        batch: int = 1,
        idle_s: float | None = None,
        waits_s: tuple[float, float] = WAITS_S,
    ) -> None:
        """Open the spool in `folder` and begin to deliver what an earlier run left there, before anything new.

        `deliver` is called by one thread with at most `batch` messages; with `idle_s` also with none, at once and that often
        while nothing waits, to look after a connection. After a failure it is tried again after `waits_s[0]` seconds, doubling
        up to `waits_s[1]`. `name` begins what is said. Raises OutputError: see MessageQueue.
        """
        self._deliver, self._name = deliver, name
        self._batch, self._idle_s, self._waits_s = batch, idle_s, waits_s
        self._changed = threading.Condition()  # guards all below and the queue
        self._delivered = self._dropped = self._rejected = 0
        self._connected: bool | None = None
        self._last_error: str | None = None
        self._troubles: dict[Event, set[str]] = {}  # what is wrong, with the reasons logged so far
        self._closing = self._abandon = False
        self._synced = time.monotonic()
        self._queue = MessageQueue(folder, max_bytes, self._say)
        if self._queue.waiting:
            self._say("waiting", f"{self._queue.waiting} messages of an earlier run go first")
        self._thread = threading.Thread(target=self._run, name=f"vtad-{name}", daemon=True)
        self._thread.start()

    def put(self, message: Mapping[str, Any]) -> bool:
        """Queue one message; False when it was dropped: the spool is full, the disk fails, or the spool is closed."""
        payload = json.dumps(message, allow_nan=False).encode("ascii")
        with self._changed:
            taken = not self._closing and self._store(payload)
            self._dropped += not taken
            self._changed.notify_all()
        return taken

    def state(self) -> dict[str, Any]:
        """The counts of this run and how the receiver does; `last_error` stays after the receiver is back."""
        with self._changed:
            return {
                "waiting": self._queue.waiting,
                "delivered": self._delivered,
                "dropped": self._dropped + self._queue.damaged,
                "rejected": self._rejected,
                "connected": self._connected,
                "last_error": self._last_error,
            }

    def close(self, timeout: float = 5.0) -> None:
        """Deliver what waits, for `timeout` seconds at most and until the first failure; leave the rest on disk."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        with self._changed:
            self._abandon = True
            if self._queue.waiting:
                self._say("left", f"{self._queue.waiting} messages stay on disk and go first at the next start")

    @property
    def ended(self) -> bool:
        """Whether the delivery thread is gone; after `close` it may still hang in one delivery."""
        return not self._thread.is_alive()

    def _store(self, payload: bytes) -> bool:
        taken = None
        with self._disk("what cannot be stored is dropped and counted"):
            taken = self._queue.append(payload)
        if taken:
            said = f"can be stored again, {self._dropped} messages were dropped so far"
            self._over("disk_failed", "disk_works", said)
        elif taken is not None:
            dropped = f"new messages are dropped and counted, {self._queue.waiting} wait"
            self._trouble("full", f"spool full: {self._queue.max_bytes} bytes", dropped)
        return bool(taken)

    def _run(self) -> None:
        wait_s = self._waits_s[0]
        try:
            delivers = self._idle_s is None or self._attempt([])
            while not self._abandon and (delivers or not self._closing):
                if not delivers:
                    self._wait(wait_s)
                    wait_s = min(2 * wait_s, self._waits_s[1])
                batch = self._oldest()
                if not batch and self._closing:
                    break
                before = self._delivered
                delivers = self._attempt(batch)
                if delivers or self._delivered > before:
                    wait_s = self._waits_s[0]
                self._sync()
        finally:
            self._synced = -SYNC_S
            self._sync()
            with self._changed:
                self._queue.close()

    def _oldest(self) -> list[bytes]:
        """Wait for messages; none when the spool closes or `idle_s` is over."""
        deadline = None if self._idle_s is None else time.monotonic() + self._idle_s
        with self._changed:
            while True:
                left = None if deadline is None else deadline - time.monotonic()
                batch: list[bytes] = []
                with self._disk("delivery waits until it can be read"):
                    batch = self._queue.peek(self._batch)
                if batch or self._closing or (left is not None and left <= 0):
                    return batch
                self._changed.wait(SYNC_S if left is None else min(left, SYNC_S))

    def _attempt(self, batch: list[bytes]) -> bool:
        """Deliver a batch, or as much of it as goes; whether the receiver is well."""
        done, rejected, failure = len(batch), "", ""
        try:
            self._deliver(batch)
        except Rejected as e:
            done, rejected = e.confirmed + 1, str(e)
        except NotDelivered as e:
            done, failure = e.confirmed, str(e)
        except Exception as e:  # this thread must live: what it failed to foresee is logged and tried again
            done, failure = 0, f"internal error: {type(e).__name__}: {e}; please report it"
        with self._changed:
            self._connected = not failure
            self._delivered += done - bool(rejected)
            self._rejected += bool(rejected)
            if rejected:
                self._trouble("rejected", rejected, "such messages are dropped and counted")
            if failure:
                self._trouble("lost", failure, f"messages wait on disk, {self._queue.waiting - done} now")
            with self._disk("a restart delivers the last messages again"):
                self._queue.take(done)
            if not failure:
                self._over("lost", "back", f"delivers again, {self._queue.waiting} messages wait")
            with self._disk("whether there is room is not known"):
                if "full" in self._troubles and 2 * self._queue.size <= self._queue.max_bytes:
                    self._over("full", "room", f"has room again, {self._dropped} messages were dropped so far")
        return not failure

    def _wait(self, seconds: float) -> None:
        """Wait before the next attempt; at once over when the spool closes."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self._closing:
            self._sync()
            with self._changed:
                if not self._closing:
                    self._changed.wait(min(left, SYNC_S))

    def _sync(self) -> None:
        """Bring what waits to the disk if that is due, without holding up `put`."""
        if time.monotonic() - self._synced < SYNC_S:
            return
        self._synced = time.monotonic()
        with self._changed:
            paths = self._queue.unsynced
        with self._disk("a power cut may lose messages"):
            for path in paths:
                sync(path)

    @contextmanager
    def _disk(self, consequence: str) -> Iterator[None]:
        """What the disk refuses inside the block is said."""
        try:
            yield
        except (DiskError, OSError) as e:
            with self._changed:
                self._trouble("disk_failed", f"spool {self._queue.folder}: {one_line(e)}", consequence)

    def _trouble(self, event: Event, reason: str, consequence: str) -> None:
        """Log what is wrong: each reason once, until it is `_over`."""
        self._last_error = reason
        reasons = self._troubles.setdefault(event, set())
        if reason not in reasons and len(reasons) < MAX_REASONS:
            reasons.add(reason)
            self._say(event, f"{reason}; {consequence}")

    def _over(self, wrong: Event, event: Event, text: str) -> None:
        if self._troubles.pop(wrong, None):
            self._say(event, text)

    def _say(self, event: Event, text: str) -> None:
        if event == "damaged":
            self._last_error = text
        warning(f"{self._name}_{event}", f"{self._name}: {text}")
