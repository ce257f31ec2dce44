"""Checks and copies the journal of a server that does not run, in a process of the broker's."""

import fcntl
import os
import subprocess
from pathlib import Path

import msgspec

from broker.process.import_path import python

JOURNAL, LOCK = "jobs.sqlite3", "broker.lock"


class JournalReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was found in a journal, or why it cannot be read."""

    num_jobs: int = 0
    unreadable: tuple[str, ...] = ()
    """Jobs that another version has written and this one cannot read in full."""
    num_bytes: int = 0
    """Size of the copy, if one was made."""
    problem: str | None = None


def is_in_use(state_dir: Path) -> bool:
    """Whether a broker has locked a state directory, as it does as long as it lives."""
    try:
        lock = os.open(state_dir / LOCK, os.O_WRONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def check_journal(state_dir: Path) -> JournalReport:
    return _ask(state_dir)


def copy_journal(state_dir: Path, file: Path) -> JournalReport:
    """Check a journal, and write a consistent copy to a file that does not exist yet."""
    return _ask(state_dir, file)


def _ask(*words: Path) -> JournalReport:
    done = subprocess.run(
        python("broker.journal", *map(str, words)), capture_output=True, check=False, text=True
    )
    try:
        return msgspec.json.decode(done.stdout, type=JournalReport)
    except msgspec.DecodeError:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return JournalReport(problem=f"the journal cannot be opened: {last}")
