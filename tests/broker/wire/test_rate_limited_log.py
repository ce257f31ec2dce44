"""The limited log of dropped messages."""

import pytest

from broker.wire.rate_limited_log import MAX_LINES, PERIOD_S, RateLimitedLog


def test_a_flood_of_bad_messages_is_counted_instead_of_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now_s = 0.0
    drops = RateLimitedLog(lambda: now_s)
    for number in range(MAX_LINES + 30):
        drops.log(ValueError(f"number {number}"))
    assert len(caplog.messages) == MAX_LINES
    assert caplog.messages[0] == "dropped a message: number 0"
    now_s = PERIOD_S
    drops.log(ValueError("again"))
    assert caplog.messages[MAX_LINES:] == [
        "dropped 30 more messages",
        "dropped a message: again",
    ]
