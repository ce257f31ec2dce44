"""Real-time priority, if this user may set it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from broker.process.child import use_realtime_priority
from launcher.options import Options
from launcher.preflight import StartError, check_realtime_front


def may_use_realtime_priority() -> bool:
    try:
        check_realtime_front(Options(realtime_front=True))
    except StartError:
        return False
    return True


@contextmanager
def realtime_priority() -> Iterator[None]:
    """Give this thread real-time priority: it acts for a client with a machine of its own."""
    use_realtime_priority()
    try:
        yield
    finally:  # only root may clear the flag, which affects what this thread starts
        os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
