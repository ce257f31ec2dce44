"""What the broker is told at its start."""

import msgspec

from broker.job import GroupShape
from broker.log import LogFormat
from broker.sockets import Addresses


class BrokerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The launcher passes it as JSON, the only argument of `python -m broker`."""

    state_dir: str
    """Holds `jobs.sqlite3`, on a local disk."""
    store: str | None = None
    """Holds `inputs/`, `videos/` and `checkpoints/`: a folder or `s3://BUCKET/PREFIX`; None is the
    state directory."""
    addresses: Addresses
    listen: Addresses | None = None
    """Where the same four sockets can be reached from other machines, too."""
    shape: GroupShape | None
    """What every group can run, so that a job is refused before any group is ready; None means
    that groups of other machines may join, tell what they can, and be lost with their machine."""
    groups: tuple[str, ...] | None = None
    """The groups that will run; a job that the journal has leased to any other is taken back at
    the start. None means that others may run elsewhere."""
    max_queue: int = 100
    """Jobs that may wait; one more is refused."""
    job_ttl_s: float = 3600.0
    """How long a job and its files are kept after its end."""
    step_limit_s: float = 60.0
    """How long a denoising step may take before its group counts as hung: five times as long until
    a step of the group is known, and always ten times the usual step."""
    retry_pauses_s: tuple[float, ...] = (5.0, 30.0)
    """How long a job waits after each lost attempt, other jobs going on, until it may be run again;
    it fails with the attempt that has no pause after it. What was wrong may pass meanwhile."""
    lost_s: float = 30.0
    """How long nothing may be heard of a group that may be on another machine, of its launcher as
    little as of its ranks, until its jobs are given to others."""
    priority_step_s: float = 3600.0
    """How much waiting a level of priority is worth."""
    draining: bool = False
    """Whether the server is about to stop: no run is begun, those that are on may end."""
    log_format: LogFormat = "text"
    parent_pid: int
    """Pid of the launcher."""
    ready_fd: int | None = None
    """Where the line `ready` goes once the sockets are bound."""

    def __post_init__(self) -> None:
        if self.max_queue < 1:
            raise ValueError(f"max_queue is {self.max_queue}; it must be at least 1")
        if self.job_ttl_s < 0:
            raise ValueError(f"job_ttl_s is {self.job_ttl_s}; it must not be negative")
        if self.priority_step_s <= 0:
            raise ValueError(f"priority_step_s is {self.priority_step_s}; it must be above 0")
