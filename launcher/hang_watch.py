"""Ends a process whose event loop stands still, so that the launcher starts it again."""

import asyncio
import logging
import os
import signal

from launcher.spawn import Child

logger = logging.getLogger("launcher")

HUNG_AFTER_S = 30.0
_TICK_S = 1.0
_STACK_DUMP_S = 1.0


class HangWatch:
    """Kills a ready process that shows no sign of life for `HUNG_AFTER_S`.

    Each tick of the launcher's own event loop counts for one second, however late it comes: a
    launcher that was stopped, or got no processor, must not take its own silence for another's.
    """

    def __init__(self, child: Child) -> None:
        self.is_hung = False
        """Until the process has ended, which one that waits for a device may not do."""
        self._child = child
        self._silent_s = 0.0

    async def run(self) -> None:
        """Watch the process until it ends."""
        listener = asyncio.create_task(self._listen())
        try:
            while self._silent_s < HUNG_AFTER_S:
                await asyncio.sleep(_TICK_S)
                self._silent_s += _TICK_S
        finally:
            listener.cancel()
        self.is_hung = True
        await self._kill()
        await asyncio.wait([self._child.exited])
        self.is_hung = False

    async def _listen(self) -> None:
        async for _ in self._child.lines():
            self._silent_s = 0.0

    async def _kill(self) -> None:
        name = self._child.name
        logger.error("%s has shown no sign of life for %.0f s; ending it", name, HUNG_AFTER_S)
        self._signal(signal.SIGUSR1)  # it dumps its stacks
        await asyncio.sleep(_STACK_DUMP_S)
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._child.pid is not None and not self._child.exited.done():
            os.kill(self._child.pid, number)
