"""`python -m broker.journal STATE_DIR [COPY]`: check the journal of a stopped server, and copy it.

It prints a `JournalReport`. Nothing in the journal changes: no table is made, no job is failed.
"""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import msgspec

from broker.errors import BrokerError
from broker.journal.documents import read_job
from broker.journal.journal import backup
from broker.journal.state_dir import StateDir
from broker.journal.tables import FIRST_WITH_DOCUMENTS, expect_known
from broker.process.stopped_journal import JOURNAL, JournalReport


def main() -> int:
    logging.disable()  # the report says it all
    state_dir, *copies = map(Path, sys.argv[1:])
    sys.stdout.write(msgspec.json.encode(_report(state_dir, copies)).decode())
    return 0


def _report(state_dir: Path, copies: list[Path]) -> JournalReport:
    path = state_dir / JOURNAL
    if not path.is_file():
        return JournalReport(problem=f"{path} is missing")
    try:
        with_lock = StateDir(state_dir)
    except BrokerError as error:
        return JournalReport(problem=str(error))
    connection = None
    try:
        connection = apsw.Connection(str(path))
        connection.pragma("locking_mode", "exclusive")
        found = connection.pragma("quick_check")
        if found != "ok":
            return JournalReport(problem=f"{path} is damaged ({found}); put a backup in its place")
        expect_known(connection, path)
        ids = list(_unreadable(connection))
        ((num_jobs,),) = connection.execute("SELECT count(*) FROM jobs")
        sizes = [backup(connection, copy) for copy in copies]
        return JournalReport(num_jobs=num_jobs, unreadable=tuple(ids), num_bytes=sum(sizes))
    except BrokerError as error:
        return JournalReport(problem=str(error))
    except (apsw.Error, msgspec.DecodeError) as error:
        return JournalReport(problem=f"{path} cannot be read: {error}")
    finally:
        if connection is not None:
            connection.close()
        with_lock.close()


def _unreadable(connection: apsw.Connection) -> Iterator[str]:
    if connection.pragma("user_version") < FIRST_WITH_DOCUMENTS:
        return  # a start of this version migrates it
    for number, document in connection.execute("SELECT number, document FROM jobs"):
        read = read_job(number, document)
        if read.is_partial:
            yield read.job.job_id


if __name__ == "__main__":
    sys.exit(main())
