"""Callbacks not yet made: a table that a trigger fills when a job ends."""

from collections.abc import Collection

import apsw

from broker.wire.job import JobState
from broker.wire.replies import Callback

RETRY_AFTER_S = (10.0, 30.0, 120.0, 600.0, 1800.0, 3600.0)
"""Pauses after failed tries; after the last one the callback is given up."""
MAX_PENDING = 10_000
"""Callbacks of one owner that may wait."""


def take(connection: apsw.Connection, now_s: float, busy: Collection[str] = ()) -> Callback | None:
    """Return the callback that is due, and set when it is due again unless it ends.

    New ones go before those that failed before, and none of a party in `busy` is returned.
    """
    rows = connection.execute(
        "SELECT job_id, url, owner, state, ended_at, tries FROM callbacks WHERE due_at <= ? "
        "ORDER BY tries > 0, due_at",
        (now_s,),
    )
    due = (
        Callback(
            job_id=job_id,
            url=url,
            owner=owner,
            state=JobState(state),
            ended_at=ended_at,
            tries=tries,
            retry_after_s=None if tries == len(RETRY_AFTER_S) else RETRY_AFTER_S[tries],
        )
        for job_id, url, owner, state, ended_at, tries in rows
    )
    callback = next((callback for callback in due if callback.party not in busy), None)
    if callback is not None:
        _delay(connection, callback, now_s)
    return callback


def _delay(connection: apsw.Connection, callback: Callback, now_s: float) -> None:
    if callback.retry_after_s is None:
        end(connection, callback.job_id)
        return
    connection.execute(
        "UPDATE callbacks SET tries = tries + 1, due_at = ? WHERE job_id = ?",
        (now_s + callback.retry_after_s, callback.job_id),
    )


def give_up_surplus(connection: apsw.Connection) -> None:
    """Give up the callbacks above the limit of their owner, those that failed most often first."""
    connection.execute(
        "DELETE FROM callbacks WHERE job_id IN (SELECT job_id FROM (SELECT job_id, row_number() "
        "OVER (PARTITION BY owner ORDER BY tries, due_at) AS place FROM callbacks) "
        "WHERE place > ?)",
        (MAX_PENDING,),
    )


def limit_delays(connection: apsw.Connection, now_s: float) -> None:
    # The clock may have been set back since: none waits longer than the longest pause.
    latest_s = now_s + RETRY_AFTER_S[-1]
    connection.execute("UPDATE callbacks SET due_at = ? WHERE due_at > ?", (latest_s, latest_s))


def end(connection: apsw.Connection, job_id: str) -> None:
    connection.execute("DELETE FROM callbacks WHERE job_id = ?", (job_id,))
