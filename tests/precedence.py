"""Real-time priority, where this user may have it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from broker.process.child import use_realtime_priority
from launcher.options import Options
from launcher.preflight import StartError, check_realtime_front


def may_use_realtime_priority() -> bool:
    """Return whether `--realtime-front` can be had."""
    try:
        check_realtime_front(Options(realtime_front=True))
    except StartError:
        return False
    return True


@contextmanager
def going_first() -> Iterator[None]:
    """Let this thread run before all else, as a client does on a machine of its own."""
    use_realtime_priority()
    try:
        yield
    finally:  # without root the flag stays; it concerns only what this thread starts
        os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
