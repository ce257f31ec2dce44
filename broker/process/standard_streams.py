"""Standard streams that were closed before this program started, or that end while it writes."""

import os
import sys
from collections.abc import Callable

PIPE_EXIT_CODE = 141
"""As shells report programs that SIGPIPE ended."""


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


def run_main(main: Callable[[], int]) -> int:
    """Run a command to its end, or until the reader of its output has ended, as `head` does."""
    try:
        try:
            return main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python writes the rest at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return PIPE_EXIT_CODE
