"""`python -m tests.chaos.dying_broker JSON MOMENT`: a broker that dies at the commit of a success.

MOMENT is `before` or `after` the commit.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

from broker.__main__ import main
from broker.dispatch.job_record import Job
from broker.journal.journal import Journal
from broker.wire.job import JobState

KILLED = 137
_write = Journal.write


def write(journal: Journal, saved: Sequence[Job], *rest: Any) -> None:
    is_end = any(job.state is JobState.SUCCEED for job in saved)
    if is_end and sys.argv[2] == "before":
        os._exit(KILLED)
    _write(journal, saved, *rest)
    if is_end:
        os._exit(KILLED)


if __name__ == "__main__":
    Journal.write = write  # type: ignore[assignment, method-assign]
    sys.exit(main())
