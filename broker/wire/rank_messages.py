"""What every rank publishes to the broker, on the `beats` socket."""

from typing import Annotated

import msgspec

from broker.wire.codec import Codec, Message
from broker.wire.job import Stage
from broker.wire.job_view import Lease

MAX_PREVIEW_BYTES = 1 << 16


class Heartbeat(Message, frozen=True, kw_only=True):
    """Sent by each rank once a second.

    `num_done` counts finished work items: a rising count is progress, a heartbeat alone is not.
    """

    group: str
    epoch: int
    rank: int
    pid: int
    device: str
    stage: Stage
    step: int
    num_done: int
    memory_bytes: int


class StepDone(Message, frozen=True, kw_only=True):
    """Rank 0 has finished a step of a stage, or a part of one.

    `step` steps of `num_steps` are done, and `part` of the next one, from 0 to 1.
    """

    lease: Lease
    stage: Stage
    step: int
    part: float = 0.0
    num_steps: int
    skipped_steps: tuple[int, ...] = ()
    """The denoising steps, from 0, that the attempt has skipped, and those known to follow."""

    @property
    def is_skipped(self) -> bool:
        """Whether it is a step that was skipped, and so says nothing about the pace."""
        return self.stage is Stage.DENOISE and self.step - 1 in self.skipped_steps


class JobPreview(Message, frozen=True, kw_only=True):
    """A small picture of the video as it is now; the broker passes it on and keeps none."""

    lease: Lease
    jpeg: Annotated[bytes, msgspec.Meta(max_length=MAX_PREVIEW_BYTES)]


RankMessage = Heartbeat | StepDone | JobPreview


rank_messages: Codec[RankMessage] = Codec(RankMessage)
