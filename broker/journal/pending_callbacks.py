"""Callbacks not yet made: a table that a trigger fills when a job ends."""

import apsw

from broker.wire.job import JobState
from broker.wire.replies import Callback

RETRY_AFTER_S = (10.0, 30.0, 120.0, 600.0, 1800.0, 3600.0)
"""Pauses after failed tries; after the last one the callback is given up."""


def take(connection: apsw.Connection, now_s: float) -> Callback | None:
    """Return the callback that is due, and set when it is due again unless it ends."""
    row = connection.execute(
        "SELECT job_id, url, owner, state, ended_at, tries FROM callbacks WHERE due_at <= ? "
        "ORDER BY due_at LIMIT 1",
        (now_s,),
    ).fetchone()
    if row is None:
        return None
    job_id, url, owner, state, ended_at, tries = row
    if tries < len(RETRY_AFTER_S):
        connection.execute(
            "UPDATE callbacks SET tries = tries + 1, due_at = ? WHERE job_id = ?",
            (now_s + RETRY_AFTER_S[tries], job_id),
        )
    else:
        end(connection, job_id)
    return Callback(
        job_id=job_id, url=url, owner=owner, state=JobState(state), ended_at=ended_at, tries=tries
    )


def limit_delays(connection: apsw.Connection, now_s: float) -> None:
    # The clock may have been set back since: none waits longer than the longest pause.
    latest_s = now_s + RETRY_AFTER_S[-1]
    connection.execute("UPDATE callbacks SET due_at = ? WHERE due_at > ?", (latest_s, latest_s))


def end(connection: apsw.Connection, job_id: str) -> None:
    connection.execute("DELETE FROM callbacks WHERE job_id = ?", (job_id,))
