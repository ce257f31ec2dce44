"""The limits that the dispatcher keeps to."""

import msgspec

from broker.wire.group_shape import GroupShape


class DispatchPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may wait, for how long, and after which silence a group counts as lost or hung.

    Raises:
        ValueError: If a number is out of its range.
    """

    shapes: tuple[GroupShape, ...] = ()
    """What the groups that this server starts can run, so that a job is refused before any of them
    is ready: one for each model."""
    is_open: bool = False
    """Whether groups of other machines may join: they report their own shape, and may be lost with
    their machine."""
    default_model: str | None = None
    """Name of the model of jobs that name none; None stands for the first known one."""
    max_queue: int
    """Jobs that may wait; one more is refused."""
    job_ttl_s: float
    """How long a job and its files are kept after its end."""
    keep_limit: int = 50
    """Videos that an owner may keep whatever their age."""
    max_without_video: int = 10_000
    """Failed and cancelled jobs of one owner that are kept so long; the earliest go first."""
    images_without_video: int = 100
    """Failed and cancelled jobs of one owner that keep their images, for another try; the earliest
    lose them first, and all of them before a full disk loses a video."""
    step_limit_s: float = 60.0
    """How long a denoising step may take before its group counts as hung: five times as long until
    a step of the group is known, and always ten times the usual step."""
    priority_step_s: float = 3600.0
    """How many seconds of waiting one level of priority is worth."""
    retry_pauses_s: tuple[float, ...] = (5.0, 30.0)
    """How long a job waits after each lost attempt, so that what was wrong can pass. A job fails
    with the attempt that has no pause after it."""
    lost_s: float = 30.0
    """How long a group on another machine may be silent, launcher and ranks alike, until its jobs
    go to other groups."""
    models_kept_s: float = 86_400.0
    """How long a model of joined groups is known while none of them is there and no job waits."""

    def __post_init__(self) -> None:
        if self.max_queue < 1:
            raise ValueError(f"max_queue is {self.max_queue}; it must be at least 1")
        if self.job_ttl_s < 0:
            raise ValueError(f"job_ttl_s is {self.job_ttl_s}; it must not be negative")
        if self.priority_step_s <= 0:
            raise ValueError(f"priority_step_s is {self.priority_step_s}; it must be above 0")
