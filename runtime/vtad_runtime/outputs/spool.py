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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vtad_runtime.contract.log import warning
from vtad_runtime.outputs.disk_queue import DiskQueue, sync

SYNC_S = 1.0  # between two syncs of what waits
MAX_SAID = 20  # different reasons said while a receiver is gone; a reason may hold anything


class NotDelivered(Exception):
    """The receiver did not confirm; the messages behind the `confirmed` first of the batch are tried again."""

    def __init__(self, reason: str, confirmed: int = 0) -> None:
        super().__init__(reason)
        self.confirmed = confirmed


class Rejected(Exception):
    """The receiver will never take the message behind the `confirmed` first of the batch; it is dropped and counted."""

    def __init__(self, reason: str, confirmed: int = 0) -> None:
        super().__init__(reason)
        self.confirmed = confirmed


News = tuple[str, str] | None  # the kind of event and the message, said once the lock is free
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
        waits_s: tuple[float, float] = (0.5, 30.0),
    ) -> None:
        """Open the spool in `folder` and begin to deliver what an earlier run left there, before anything new.

        `deliver` is called by one thread with at most `batch` messages; with `idle_s` also with none, at once and that often
        while nothing waits, to look after a connection. After a failure it is tried again after `waits_s[0]` seconds, doubling
        up to `waits_s[1]`. `name` begins what is said. Raises OutputError: see DiskQueue.
        """
        self._deliver, self._name = deliver, name
        self._batch, self._idle_s, self._waits_s = batch, idle_s, waits_s
        self._queue = DiskQueue(folder, max_bytes)
        self._changed = threading.Condition()  # guards all below and the queue
        self._delivered = self._dropped = self._rejected = 0
        self._connected: bool | None = None
        self._last_error: str | None = None
        self._lost: set[str] = set()  # reasons said since the receiver was lost
        self._once: set[str] = set()  # reasons that are said once for all
        self._damaged = 0  # of those found damaged, how many were said
        self._full = self._disk_fails = False
        self._closing = self._abandon = False
        self._synced = time.monotonic()
        if self._queue.waiting:
            self._tell(("waiting", f"{self._queue.waiting} messages of an earlier run go first"))
        self._thread = threading.Thread(target=self._run, name=f"vtad-{name}", daemon=True)
        self._thread.start()

    def put(self, message: Mapping[str, Any]) -> bool:
        """Queue one message; False when it was dropped: the spool is full, the disk fails, or the spool is closed."""
        payload = json.dumps(message, allow_nan=False).encode("ascii")
        with self._changed:
            try:
                taken = not self._closing and self._queue.append(payload)
            except OSError as e:
                taken, news = False, self._disk_failed(e)
            else:
                news = self._disk_works() if taken else self._became_full()
            self._dropped += not taken
            self._changed.notify_all()
        self._tell(news)
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
            waiting = self._queue.waiting
        if waiting:
            self._tell(("left", f"{waiting} messages stay on disk and go first at the next start"))

    @property
    def ended(self) -> bool:
        """Whether the delivery thread is gone; after `close` it may still hang in one delivery."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        wait = self._waits_s[0]
        try:
            delivers = self._idle_s is None or self._attempt([])
            while not (self._closing and not delivers) and not self._abandon:
                if not delivers:
                    self._pause(wait)
                    wait = min(2 * wait, self._waits_s[1])
                batch = self._oldest()
                if not batch and self._closing:
                    break
                before = self._delivered
                delivers = self._attempt(batch)
                if delivers or self._delivered > before:
                    wait = self._waits_s[0]
                self._sync_if_due()
        finally:
            self._synced = -SYNC_S
            self._sync_if_due()
            with self._changed:
                self._queue.close()

    def _oldest(self) -> list[bytes]:
        """Wait for messages; none when the spool closes or `idle_s` is over."""
        deadline = time.monotonic() + self._idle_s if self._idle_s is not None else None
        while True:
            with self._changed:
                left = None if deadline is None else deadline - time.monotonic()
                over = self._closing or (left is not None and left <= 0)
                batch: list[bytes] = []
                try:
                    batch, news = self._queue.peek(self._batch), self._found_damaged()
                except OSError as e:
                    reason = f"spool {self._queue.folder} cannot be read: {e.strerror or e}"
                    news, left = self._say_once("disk_failed", reason, "delivery waits until it can"), 1.0
                over = over or bool(batch)
                if not over and news is None:
                    self._changed.wait(left)
            self._tell(news)
            if over:
                return batch

    def _attempt(self, batch: list[bytes]) -> bool:
        """Deliver a batch, or as much of it as goes; whether the receiver is well."""
        done, rejected, failure = len(batch), None, None
        try:
            self._deliver(batch)
        except NotDelivered as e:
            done, failure = e.confirmed, str(e)
        except Rejected as e:
            done, rejected = e.confirmed + 1, str(e)
        except Exception as e:  # this thread must live: what it failed to foresee is said and tried again
            done, failure = 0, f"internal error: {type(e).__name__}: {e}; please report it"
        news: list[News] = []
        with self._changed:
            try:
                self._queue.take(done)
            except OSError as e:
                news.append(self._disk_failed(e))
            self._delivered += done - (rejected is not None)
            self._rejected += rejected is not None
            news += [self._was_rejected(rejected), self._receiver(failure), self._has_room()]
        self._tell(*news)
        return failure is None

    def _pause(self, seconds: float) -> None:
        """Wait before the next attempt; at once over when the spool closes."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self._closing:
            self._sync_if_due()
            with self._changed:
                if not self._closing:
                    self._changed.wait(min(left, SYNC_S))

    def _sync_if_due(self) -> None:
        """Bring what waits to the disk, without holding up `put`."""
        if time.monotonic() - self._synced < SYNC_S:
            return
        self._synced = time.monotonic()
        with self._changed:
            paths = self._queue.unsynced() if self._queue.waiting else []
        try:
            sync(paths)
        except OSError as e:
            reason = f"spool {self._queue.folder} cannot be synced: {e.strerror or e}"
            with self._changed:
                news = self._say_once("disk_failed", reason, "a power cut may lose messages")
            self._tell(news)

    def _receiver(self, failure: str | None) -> News:
        """Each reason is said once while the receiver is gone, and that it is back."""
        self._connected = failure is None
        if failure is None:
            was_lost = bool(self._lost)
            self._lost.clear()
            return ("back", f"delivers again, {self._queue.waiting} messages wait") if was_lost else None
        self._last_error = failure
        if failure in self._lost or len(self._lost) >= MAX_SAID:
            return None
        self._lost.add(failure)
        return "lost", f"{failure}; messages wait on disk, {self._queue.waiting} now"

    def _was_rejected(self, reason: str | None) -> News:
        return None if reason is None else self._say_once("rejected", reason, "such messages are dropped and counted")

    def _say_once(self, event: str, reason: str, consequence: str) -> News:
        self._last_error = reason
        if reason in self._once or len(self._once) >= MAX_SAID:
            return None
        self._once.add(reason)
        return event, f"{reason}; {consequence}"

    def _became_full(self) -> News:
        if self._full or self._closing:
            return None
        self._full = True
        self._last_error = f"spool full: {self._queue.max_bytes} bytes"
        return "full", f"{self._last_error}; new messages are dropped and counted, {self._queue.waiting} wait"

    def _has_room(self) -> News:
        if not self._full or 2 * self._queue.size > self._queue.max_bytes:
            return None
        self._full = False
        return "room", f"the spool has room again; {self._dropped} messages were dropped so far"

    def _disk_failed(self, error: OSError) -> News:
        reason = f"spool {self._queue.folder}: {error.strerror or error}"
        self._last_error = reason
        if self._disk_fails:
            return None
        self._disk_fails = True
        return "disk_failed", f"{reason}; what cannot be stored is dropped and counted"

    def _disk_works(self) -> News:
        if not self._disk_fails:
            return None
        self._disk_fails = False
        return "disk_works", f"the spool can be written again; {self._dropped} messages were dropped so far"

    def _found_damaged(self) -> News:
        if self._damaged == self._queue.damaged:
            return None
        new, self._damaged = self._queue.damaged - self._damaged, self._queue.damaged
        self._last_error = f"spool {self._queue.folder}: {new} damaged messages skipped"
        return "damaged", self._last_error

    def _tell(self, *news: News) -> None:
        for event in news:
            if event is not None:
                warning(f"{self._name}_{event[0]}", f"{self._name}: {event[1]}")
