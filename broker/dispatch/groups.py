"""What the dispatcher knows of a group: its present life, and the runs it holds."""

from dataclasses import dataclass, field

from broker.dispatch.liveness import RankWatch
from broker.dispatch.pace import StageProgress
from broker.dispatch.sorted_queue import SortKey
from broker.wire.job import GroupShape, JobSpec, Stage, can_run
from broker.wire.protocol import GroupView, Lease

START_LIMIT_S = 5.0
CANCEL_LIMIT_S = 30.0
SAVE_LIMIT_S = 60.0


@dataclass(slots=True)
class Attempt:
    """One attempt of one job on a group, until the group has reported its end."""

    lease: Lease
    mark: StageProgress
    started: bool = False
    decoded: bool = False
    cancelled: bool = False
    delayed: bool = False
    """It waits for something outside of the group."""
    preempted: bool = False
    """It has to leave for a more urgent job."""
    priority: int = 0
    place: SortKey = (0.0, 0)
    """Those of its job, should it wait again."""
    num_missed: int = 0
    """How often in a row the group has told of its runs, and not of this one."""
    deadline_s: float | None = None
    overdue: str = ""
    """Why the group is killed once the deadline has passed."""

    @property
    def has_to_leave(self) -> bool:
        """Whether the group has been told to leave the run."""
        return self.preempted or self.cancelled

    @property
    def can_leave(self) -> bool:
        """Whether the run may be sent away: there is something left of it to save."""
        has_far_to_go = self.mark.stage in (Stage.ENCODE, Stage.DENOISE)
        return self.started and has_far_to_go and not self.has_to_leave

    def expect(self, what: str, limit_s: float, awake_s: float) -> None:
        """Set the deadline for the group's next report."""
        self.deadline_s = awake_s + limit_s
        self.overdue = f"job {self.lease.job_id}: {what} within {limit_s:g} s"

    def expect_start(self, awake_s: float) -> None:
        """The group has to take the job."""
        self.expect("not taken", START_LIMIT_S, awake_s)

    def start(self, now_s: float) -> None:
        """The group has taken the job; from here on its beats are watched."""
        if not self.started:
            self.started = True
            self.mark = StageProgress(now_s, Stage.ENCODE)
            if not self.cancelled:
                self.deadline_s = None

    def decode(self, now_s: float, awake_s: float) -> None:
        """The group is free for another job; only the file is being written."""
        self.started = self.decoded = True
        self.mark = StageProgress(now_s, Stage.SAVE)
        self._expect_video(awake_s)

    def delay(self, awake_s: float) -> None:
        """The group says that it has not forgotten the run."""
        self.delayed = True
        if self.decoded:
            self._expect_video(awake_s)

    def _expect_video(self, awake_s: float) -> None:
        if not self.cancelled:
            self.expect("its video not written", SAVE_LIMIT_S, awake_s)

    def cancel(self, awake_s: float) -> None:
        """The group has to leave the run."""
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
    """A peer has spoken for this life; until then it is only a name in the journal."""
    leaving: bool = False
    """It stops by itself and takes no further job."""
    draining: bool = False
    """Its launcher waits to hear that nothing runs on it."""
    considered: bool = False
    """Whether those jobs have been ended that wait and, as its shape tells, no group can run."""
    heard_s: float = 0.0
    """When anything of it, launcher or rank, was last heard."""
    gone: bool = False
    killed_at_s: float | None = None
    kill_reason: str = ""
    runs: dict[str, Attempt] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether the group serves jobs, be it busy or not."""
        alive = not self.gone and not self.leaving and self.killed_at_s is None
        return alive and self.shape is not None

    @property
    def computing(self) -> Attempt | None:
        """The run that occupies the ranks."""
        return next((run for run in self.runs.values() if not run.decoded), None)

    @property
    def sole_run(self) -> Attempt | None:
        """The run without which the group could take a job now."""
        runs = [run for run in self.runs.values() if not run.decoded]
        is_delayed = any(run.delayed for run in self.runs.values())
        return runs[0] if self.ready and len(runs) == 1 and not is_delayed else None

    @property
    def is_free(self) -> bool:
        """Whether the group can take a job now; while runs are delayed it piles up no more."""
        return self.ready and all(run.decoded and not run.delayed for run in self.runs.values())

    def fits(self, spec: JobSpec) -> bool:
        """Whether the group can split a job of these parameters."""
        return self.shape is not None and can_run(spec, self.shape)

    def find(self, lease: Lease) -> Attempt | None:
        """Return the run of a lease; None if the lease is not, or no longer, in force."""
        run = self.runs.get(lease.job_id)
        return run if run is not None and run.lease == lease else None

    def fault(self, awake_s: float) -> str | None:
        """Return why this life has to end; None while all is well."""
        for run in self.runs.values():
            if run.deadline_s is not None and awake_s > run.deadline_s:
                return run.overdue
        return self.watch.fault(self.shape is not None, awake_s)

    def view(self, awake_s: float) -> GroupView:
        """Return what `/health` shows of the group."""
        computing = self.computing
        return GroupView(
            group=self.name,
            epoch=self.epoch,
            ready=self.ready and self.watch.is_fresh(awake_s),
            restarts=self.restarts,
            job_id=computing.lease.job_id if computing else None,
            ranks=[] if self.gone else self.watch.views(awake_s),
        )
