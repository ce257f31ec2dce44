"""A job and its attempts, as they appear in messages."""

from collections.abc import Mapping

import msgspec

from broker.wire.errors import ErrorCode, ResultWarning
from broker.wire.job import JobSpec, JobState, Stage
from broker.wire.lora import LoraHashes


class Lease(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The right of one life of a group to run one attempt of a job: the fencing token."""

    group: str
    epoch: int
    job_id: str
    attempt: int
    """Rises with every lease of the job, so that no lease is granted twice."""


class JobFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the broker stores of a job and publishes as it is: the one list of these fields."""

    job_id: str
    created_at: float
    updated_at: float
    seq: int = 1
    """Rises with every change."""
    state: JobState = JobState.IN_QUEUE
    progress: float = 0.0
    """From 0 to 1."""
    attempt: int = 0
    """Number of the latest attempt."""
    stage: Stage | None = None
    step: int = 0
    num_steps: int = 0
    """Where the attempt is."""
    skipped_steps: tuple[int, ...] = ()
    """The denoising steps, from 0, that its step cache skips, as far as they are known."""
    reason: str | None = None
    """Why the job failed; before, what it waits for besides its turn."""
    error_code: ErrorCode | None = None
    video: str | None = None
    """File name in the videos folder, once the state is `Succeed`."""
    warning: ResultWarning | None = None
    """What looks wrong with the video."""
    model_hash: str | None = None
    """Content hash of the model that runs the latest attempt, or that made the video."""
    prompt_tokens: int | None = None
    """Length of its prompt, as its model counts it, once an attempt has started."""
    lora_hashes: LoraHashes = {}
    """Of its LoRAs when it was accepted; no attempt uses others."""
    priority: int = 0
    owner: str | None = None
    """Name of the API key that submitted it, for the fronts; None where no keys are in use."""
    stage_s: Mapping[str, float] = {}
    """Seconds that the latest attempt has spent in each stage, and before it in the queue."""


class JobView(JobFields, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A job at one moment, as fronts receive it; fields that have their default are left out."""

    eta_s: float | None = None
    """Seconds until the job ends, as far as earlier jobs tell."""
    queue_position: int | None = None
    """1 is next."""
    spec: JobSpec | None = None
    """In replies only, since it never changes."""
    image: str | None = None
    """File name in the inputs folder; in replies only. The image may be removed."""
    last_image: str | None = None
    """File name of the video's last frame, if the job gives one; in replies only."""
    expires_at: float | None = None
    """When an ended job will be removed; None until it ends, and while it is kept."""
    kept: bool = False
    """Whether an ended job is kept whatever its age."""
