"""Real-time priority, where this user may have it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from broker.process.child import go_first
from launcher.options import Options
from launcher.preflight import StartError, check_precedence


def may_go_first() -> bool:
    """Return whether `--realtime-front` can be had."""
    try:
        check_precedence(Options(realtime_front=True))
    except StartError:
        return False
    return True


@contextmanager
def going_first() -> Iterator[None]:
    """Let this thread run before all else, as a client does on a machine of its own."""
    go_first()
    try:
        yield
    finally:  # without root the flag stays; it concerns only what this thread starts
        os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
