"""A broker whose system clock a test sets: `python -m tests.broker.broker_with_set_clock CONFIG F`.

File F holds the seconds by which the clock has been set.
"""

import sys
import time
from pathlib import Path

_real = time.time


def _set_clock() -> float:
    return _real() + float(Path(sys.argv[2]).read_text() or 0)


if __name__ == "__main__":
    time.time = _set_clock
    from broker.__main__ import main  # it must find the clock that is set

    sys.exit(main())
