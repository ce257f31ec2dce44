"""Replaces the standard streams that were closed before this program started."""

import os
import sys


def open_missing_streams() -> None:
    """Open `/dev/null` in place of each closed standard stream, for this process and its children.

    Otherwise the next socket or file gets the free number, and log entries are written into it.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # The system assigns the lowest free number, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    # Python has set the stream object of a closed descriptor to None.
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
