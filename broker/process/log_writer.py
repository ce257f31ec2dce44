"""Writes log entries in a thread, so that a full pipe or a slow disk never blocks the caller."""

import logging
import os
import queue
import select
import threading
from itertools import accumulate

MAX_WAITING = 5_000
"""Entries that wait while standard error accepts none. Further ones are dropped and counted."""
_CLOSE_LIMIT_S = 2.0
_PAUSE_S = 0.02
"""Between two writes: waking the thread for each entry costs a busy caller half its time."""
_STDERR_FD = 2


class LogWriter(logging.Handler):
    """Formats entries in the caller, whose context names the job, and writes them in a thread.

    The thread starts with the first entry, so that the starter of ranks forks without one. It
    writes to the descriptor, because a stream object has a lock that a fork may leave locked.

    Args:
        formatter: Makes the text of an entry.
    """

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._entries: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._num_dropped = 0
        self._num_reported = 0
        self._num_failed = 0
        self._failure = ""
        self._is_cut = False
        self._is_closing = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self._entries.qsize() >= MAX_WAITING:
            self._num_dropped += 1
            return
        try:
            self._entries.put(self.format(record))
        except Exception:  # noqa: BLE001 (as every handler: a bad entry must not stop its caller)
            self.handleError(record)
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Write the entries that wait; give up after 2 s if standard error accepts none."""
        thread, self._thread = self._thread, None
        if thread is not None and thread.is_alive():  # not alive after a fork
            self._is_closing.set()
            self._entries.put(None)
            thread.join(_CLOSE_LIMIT_S)
        super().close()

    def _write_all(self) -> None:
        is_open = True
        while is_open:
            waiting = [self._entries.get()]
            waiting += [self._entries.get() for _ in range(self._entries.qsize())]
            entries = [entry for entry in waiting if entry is not None]
            is_open = len(entries) == len(waiting)
            self._write(entries)
            self._report_drops()
            self._is_closing.wait(_PAUSE_S)

    def _report_drops(self) -> None:
        num_new = self._num_dropped - self._num_reported
        if num_new:
            self._num_reported += num_new
            self._write([self._note(f"dropped {num_new} log entries: standard error was full")])

    def _write(self, entries: list[str]) -> None:
        """Write entries. Those that fail are lost, and the next ones are preceded by the number."""
        if self._num_failed:
            text = f"{self._num_failed} log entries could not be written: {self._failure}"
            if not self._put([self._note(text)]):
                self._num_failed = 0
        self._num_failed += self._put(entries)

    def _put(self, entries: list[str]) -> int:
        """Write entries at a stretch; return how many could not be written whole."""
        lines = [f"{entry}\n".encode(errors="backslashreplace") for entry in entries]
        if self._is_cut and lines:
            lines[0] = b"\n" + lines[0]
        rest = memoryview(b"".join(lines))
        num_bytes = len(rest)
        while rest:
            try:
                rest = rest[os.write(_STDERR_FD, rest) :]
            except BlockingIOError:  # another process that shares it made it non-blocking
                select.select([], [_STDERR_FD], [])
            except OSError as error:
                self._failure = os.strerror(error.errno or 0)
                break
        ends = list(accumulate(map(len, lines)))
        num_written = num_bytes - len(rest)
        if num_written:
            self._is_cut = num_written not in ends
        return sum(end > num_written for end in ends)

    def _note(self, text: str) -> str:
        return self.format(logging.LogRecord("log", logging.WARNING, "", 0, text, None, None))
