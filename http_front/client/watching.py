"""Watches a job until it ends, and asks on Ctrl-C whether to cancel it."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Any

from http_front.client.client import RefusedError, WanClient
from http_front.client.exit_codes import LeftRunningError
from http_front.client.output import Output
from http_front.client.progress_bar import ProgressBar
from http_front.video.job_status import JobUpdate

_QUESTION = "Cancel the job? y: cancel it, n: keep watching, Ctrl-C: leave it running. "


class Watch:
    """Shows the progress of one job on the terminal."""

    def __init__(self, client: WanClient, job_id: str, output: Output) -> None:
        self._client = client
        self._job_id = job_id
        self._output = output
        self._bar = ProgressBar(output.notes)

    async def run(self) -> JobUpdate:
        """Show every change and return the last one.

        Raises:
            LeftRunningError: If Ctrl-C ended the watch.
        """
        with _ctrl_c() as pressed, self._bar:
            following = asyncio.create_task(self._follow())
            try:
                while not await _is_done(following, pressed=pressed):
                    if not self._may_ask():
                        raise self._left_running()
                    with self._bar.paused():
                        await self._ask(following, pressed)
                return following.result()
            finally:
                following.cancel()

    async def _follow(self) -> JobUpdate:
        last = None
        async with aclosing(self._client.watch(self._job_id)) as updates:
            async for last in updates:
                self._bar.show(last)
                if self._output.as_json:
                    self._output.result(last, "")
        assert last is not None, "a watch ends with a terminal change"
        return last

    def _may_ask(self) -> bool:
        """Return whether a person can see the question and answer it."""
        return not self._output.as_json and sys.stdin.isatty() and sys.stderr.isatty()

    async def _ask(self, following: "asyncio.Task[JobUpdate]", pressed: asyncio.Event) -> None:
        self._output.notes.print(f"\n{_QUESTION}", end="")
        answering = asyncio.create_task(_read_line())
        try:
            # The job may also end while the question is open.
            if not await _is_done(following, answering, pressed=pressed):
                self._output.note("")
                raise self._left_running()
            if answering.done() and answering.result().strip().lower() in ("y", "yes"):
                with suppress(RefusedError):  # it has just ended; its last change is on its way
                    await self._client.cancel(self._job_id)
        finally:
            answering.cancel()

    def _left_running(self) -> LeftRunningError:
        return LeftRunningError(
            f"the job keeps running. Watch it: wan watch {self._job_id}   "
            f"Cancel it: wan cancel {self._job_id}"
        )


@contextmanager
def _ctrl_c() -> Iterator[asyncio.Event]:
    """Make Ctrl-C set an event instead of ending the command."""
    pressed = asyncio.Event()
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGINT)
    loop.add_signal_handler(signal.SIGINT, pressed.set)
    try:
        yield pressed
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)


async def _is_done(*work: "asyncio.Future[Any]", pressed: asyncio.Event) -> bool:
    """Wait for the first of several tasks or Ctrl-C; return whether any task is done."""
    waiting = asyncio.ensure_future(pressed.wait())
    await asyncio.wait({*work, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    pressed.clear()
    return any(one.done() for one in work)


async def _read_line() -> str:
    """Return a line from standard input. Unlike a read in a thread, this can be cancelled."""
    loop, stdin = asyncio.get_running_loop(), sys.stdin.fileno()
    ready = asyncio.Event()
    loop.add_reader(stdin, ready.set)
    try:
        await ready.wait()
        return os.read(stdin, 1024).decode(errors="replace")
    finally:
        loop.remove_reader(stdin)
