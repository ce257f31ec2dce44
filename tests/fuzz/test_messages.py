"""For any bytes, a codec returns a message of its direction or raises `ProtocolError`."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.wire.codec import PROTOCOL_VERSION, Codec
from broker.wire.errors import ProtocolError
from broker.wire.events import job_events
from broker.wire.group_commands import CancelRun, RunJob, group_commands
from broker.wire.group_reports import GroupReady, group_reports
from broker.wire.group_shape import GroupShape
from broker.wire.job import JobSpec, JobState, Stage
from broker.wire.job_view import JobView, Lease
from broker.wire.rank_messages import Heartbeat, rank_messages
from broker.wire.replies import JobFound, front_replies
from broker.wire.requests import SubmitJob, front_requests

LEASE = Lease(group="g0", epoch=1, job_id="0" * 32, attempt=1)
SPEC = JobSpec(prompt="A cat walks over the grass", seed=1)
VIEW = JobView(
    job_id="0" * 32, seq=1, state=JobState.IN_QUEUE, progress=0.0, created_at=1.0, updated_at=1.0
)
DIRECTIONS: list[tuple[Codec[Any], Any]] = [
    (front_requests, SubmitJob(job_id="0" * 32, spec=SPEC, image="x")),
    (front_replies, JobFound(job=VIEW)),
    (group_reports, GroupReady(group="g", epoch=1, shape=GroupShape(world_size=8, num_heads=8),
                               device="cpu", running=[LEASE])),
    (group_commands, RunJob(lease=LEASE, spec=SPEC, image="x")),
    (group_commands, CancelRun(lease=LEASE)),
    (rank_messages, Heartbeat(group="g", epoch=1, rank=0, pid=1, device="cpu", stage=Stage.IDLE,
                              step=0, num_done=0, memory_bytes=0)),
    (job_events, VIEW),
]  # fmt: skip


def decode(codec: Codec[Any], parts: list[bytes]) -> None:
    """Decode parts; if they are a message, check that it survives another round trip."""
    try:
        message = codec.decode(parts)
    except ProtocolError:
        return
    assert codec.decode(codec.encode(message)) == message


@pytest.mark.parametrize(("codec", "message"), DIRECTIONS)
def test_a_damaged_message_is_decoded_or_refused(
    codec: Codec[Any], message: Any, num_examples: int
) -> None:
    whole = codec.encode(message)[1]

    @settings(max_examples=10 * num_examples, deadline=None, database=None, derandomize=True)
    @given(st.integers(0, len(whole)), st.integers(0, 40), st.binary(max_size=40))
    def try_damaged(start: int, length: int, put: bytes) -> None:
        decode(codec, [PROTOCOL_VERSION, whole[:start] + put + whole[start + length :]])

    try_damaged()


@pytest.mark.parametrize("codec", [codec for codec, _ in DIRECTIONS])
def test_random_parts_are_decoded_or_refused(codec: Codec[Any], num_examples: int) -> None:
    @settings(max_examples=10 * num_examples, deadline=None, database=None, derandomize=True)
    @given(st.lists(st.binary(max_size=200), max_size=5), st.integers(0, 100_000))
    def try_parts(parts: list[bytes], depth: int) -> None:
        decode(codec, parts)
        for opening in (b"\x91", b"\x81\xa4type", b"\x81\xa1a"):
            decode(codec, [PROTOCOL_VERSION, opening * depth + b"".join(parts)])

    try_parts()
