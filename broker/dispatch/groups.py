"""What the dispatcher knows of a group: its present life, and the attempts it holds."""

from dataclasses import dataclass, field

from broker.dispatch.liveness import RankWatch
from broker.dispatch.pace import StageProgress
from broker.dispatch.sorted_queue import SortKey
from broker.wire.group_shape import GroupShape
from broker.wire.job import Stage
from broker.wire.job_view import Lease
from broker.wire.replies import GroupView

START_LIMIT_S = 5.0
CANCEL_LIMIT_S = 30.0
SAVE_LIMIT_S = 60.0


@dataclass(slots=True)
class Attempt:
    """One attempt of one job on a group, until the group has reported its end."""

    lease: Lease
    progress: StageProgress
    started: bool = False
    decoded: bool = False
    cancelled: bool = False
    delayed: bool = False
    """It waits for something outside of the group."""
    preempted: bool = False
    """It makes way for a more urgent job."""
    priority: int = 0
    sort_key: SortKey = (0.0, 0)
    """Of its job, should it wait again."""
    num_missed: int = 0
    """How often in a row the group did not list it."""
    deadline_s: float | None = None
    overdue: str = ""
    """Why the group is killed once the deadline has passed."""

    @property
    def has_to_leave(self) -> bool:
        return self.preempted or self.cancelled

    @property
    def can_leave(self) -> bool:
        # After denoising, too little remains to be worth saving.
        is_early = self.progress.stage in (Stage.ENCODE, Stage.DENOISE)
        return self.started and is_early and not self.has_to_leave

    def expect(self, what: str, limit_s: float, awake_s: float) -> None:
        self.deadline_s = awake_s + limit_s
        self.overdue = f"job {self.lease.job_id}: {what} within {limit_s:g} s"

    def expect_start(self, awake_s: float) -> None:
        self.expect("not taken", START_LIMIT_S, awake_s)

    def start(self, now_s: float) -> None:
        if not self.started:
            self.started = True
            self.progress = StageProgress(now_s, Stage.ENCODE)
            if not self.cancelled:
                # Heartbeats tell from here on whether it hangs.
                self.deadline_s = None

    def decode(self, now_s: float, awake_s: float) -> None:
        """Note that only the file remains to be written; the group is free for another job."""
        self.started = self.decoded = True
        self.progress = StageProgress(now_s, Stage.SAVE)
        self._expect_video(awake_s)

    def delay(self, awake_s: float) -> None:
        self.delayed = True
        if self.decoded:
            self._expect_video(awake_s)

    def _expect_video(self, awake_s: float) -> None:
        if not self.cancelled:
            self.expect("its video not written", SAVE_LIMIT_S, awake_s)

    def cancel(self, awake_s: float) -> None:
        self.cancelled = True
        self.expect("cancelled, but not left", CANCEL_LIMIT_S, awake_s)


@dataclass(slots=True)
class Group:
    """One life of a group."""

    name: str
    epoch: int
    watch: RankWatch
    shape: GroupShape | None = None
    """Set once the group is ready."""
    restarts: int = 0
    registered: bool = False
    """A peer has reported this life; before, it is only a name in the journal."""
    leaving: bool = False
    """It stops by itself and takes no further job."""
    draining: bool = False
    """Its launcher waits until nothing runs on it."""
    set_aside: str = ""
    """Why it gets no jobs although its ranks are ready: another group serves another model under
    the same name."""
    considered: bool = False
    """The waiting jobs that no group can run, as its shape shows, have been ended."""
    heard_s: float = 0.0
    """When its launcher or a rank last reported."""
    gone: bool = False
    killed_at_s: float | None = None
    kill_reason: str = ""
    attempts: dict[str, Attempt] = field(default_factory=dict)
    """By job id."""

    @property
    def ready(self) -> bool:
        """Whether the group serves jobs, free or busy."""
        alive = not self.gone and not self.leaving and self.killed_at_s is None
        return alive and self.shape is not None

    @property
    def computing(self) -> Attempt | None:
        return next((one for one in self.attempts.values() if not one.decoded), None)

    @property
    def sole_attempt(self) -> Attempt | None:
        """The attempt without which the group could take a job now."""
        attempts = [one for one in self.attempts.values() if not one.decoded]
        is_delayed = any(one.delayed for one in self.attempts.values())
        return attempts[0] if self.ready and len(attempts) == 1 and not is_delayed else None

    @property
    def is_free(self) -> bool:
        return self.ready and all(one.decoded and not one.delayed for one in self.attempts.values())

    def find(self, lease: Lease) -> Attempt | None:
        """Return the attempt of a lease; None if the lease is not in force."""
        attempt = self.attempts.get(lease.job_id)
        return attempt if attempt is not None and attempt.lease == lease else None

    def fault(self, awake_s: float) -> str | None:
        """Return why this life has to end; None while all is well."""
        for attempt in self.attempts.values():
            if attempt.deadline_s is not None and awake_s > attempt.deadline_s:
                return attempt.overdue
        return self.watch.fault(self.shape is not None, awake_s)

    def view(self, awake_s: float) -> GroupView:
        computing = self.computing
        return GroupView(
            group=self.name,
            epoch=self.epoch,
            ready=self.ready and self.watch.is_fresh(awake_s),
            restarts=self.restarts,
            job_id=computing.lease.job_id if computing else None,
            ranks=[] if self.gone else self.watch.views(awake_s),
        )
