"""The lives of groups: when one starts, is ready, hangs, and is gone."""

import logging
from collections.abc import Collection
from typing import assert_never

from broker.dispatch.commands import AskHowItEnded, ToGroup, ToLauncher
from broker.dispatch.dispatch_state import DispatchState
from broker.dispatch.groups import Attempt, Group
from broker.dispatch.job_record import Job
from broker.dispatch.liveness import RankWatch
from broker.dispatch.pace import StageProgress
from broker.dispatch.runs import Attempts
from broker.wire.job import Stage
from broker.wire.protocol import (
    CancelRun,
    DrainGroup,
    GroupDrained,
    GroupGone,
    GroupLost,
    GroupReady,
    GroupStarted,
    Heartbeat,
    KillGroup,
    Lease,
    PreemptRun,
)

logger = logging.getLogger(__name__)

KILL_AGAIN_S = 10.0
FORGOTTEN_S = 600.0
NUM_ASKED = 2

LifeReport = GroupStarted | GroupReady | GroupGone | GroupLost | DrainGroup


class GroupLifecycle:
    """Keeps the board true to what is told of groups, and has those killed that hang.

    Args:
        board: The dispatcher's board.
        runs: Takes back the runs of a life that is over.
        step_limit_s: How long a denoising step may always take.
        lost_s: After which silence a group is given up; None is never, as on one machine, where
            its launcher tells when all of it is reaped, or ends together with the broker.
    """

    def __init__(
        self, board: DispatchState, runs: Attempts, step_limit_s: float, lost_s: float | None
    ) -> None:
        self._board = board
        self._runs = runs
        self._step_limit_s = step_limit_s
        self._lost_s = lost_s

    def handle(self, report: LifeReport, now_s: float) -> None:
        """Take what a launcher or rank 0 says about a group."""
        match report:
            case GroupStarted():
                self._launched(report, now_s)
            case GroupReady():
                self._ready(report, now_s)
            case GroupGone():
                self._gone(report, now_s)
            case GroupLost():
                if (group := self._board.groups.get(report.group)) is not None:
                    self._lose(group, "its machine is lost", now_s)
            case DrainGroup():
                self._drain(report, now_s)
            case _:
                assert_never(report)

    def hear(self, beat: Heartbeat, now_s: float) -> None:
        """Take a beat of a rank, unless it is of another life."""
        group = self._board.groups.look_at(beat.group)
        if group is not None and group.epoch == beat.epoch:
            group.heard_s = self._board.awake.at(now_s)
            group.watch.hear(beat, group.heard_s)

    def hear_again(self, report: GroupStarted, now_s: float) -> bool:
        """Take what a launcher repeats every other second; False if it is news, for `handle`."""
        group = self._board.groups.look_at(report.group)
        if group is None or group.epoch != report.epoch or group.gone:
            return False
        if not (group.registered and group.watch.world_size):
            return False
        group.heard_s = self._board.awake.at(now_s)
        return True

    def adopt(self, job: Job, lease: Lease, now_s: float) -> None:
        """Take a job's lease from the journal: its group may still be running it."""
        group = self._board.groups.get(lease.group)
        if group is None:
            group = self._add(lease.group, lease.epoch)
        group.runs[lease.job_id] = self._board.new_attempt(job, lease, now_s)

    def drop_unknown_groups(self, names: Collection[str], now_s: float) -> None:
        """Take back the leases of groups that will not come back, as after a start with fewer."""
        for group in self._board.groups.values():
            if not group.registered and group.name not in names:
                logger.warning("group %s is no more; taking its jobs back", group.name)
                self._end_life(group, now_s)

    def kill_hung_groups(self, now_s: float) -> None:
        """Have every group killed that hangs, and those that should be dead killed again."""
        if self._lost_s is not None:
            self._give_up_silent(self._lost_s, now_s)
        awake_s = self._board.awake.now_s
        for group in self._board.groups.look():
            if group.gone or not group.registered:
                continue
            if group.killed_at_s is None:
                reason = group.fault(awake_s)
                if reason is not None:
                    self._kill(group.name, reason)
            elif awake_s - group.killed_at_s > KILL_AGAIN_S:
                self._kill(group.name, group.kill_reason)

    def report_drained(self, name: str) -> None:
        """Answer the launcher that waits for a group, if nothing runs on it any more."""
        group = self._board.groups.get(name)
        if group is not None and group.draining and not group.runs:
            group.draining = False
            told = GroupDrained(group=name, epoch=group.epoch)
            self._board.emit(ToLauncher(name, told))

    def _give_up_silent(self, lost_s: float, now_s: float) -> None:
        """Forget the groups whose machine is lost: neither a launcher nor a rank is heard."""
        awake_s = self._board.awake.now_s
        silent = [
            group
            for group in self._board.groups.look()
            if awake_s - group.heard_s > (FORGOTTEN_S if group.gone else lost_s)
        ]
        for group in silent:
            self._lose(group, f"no word for {lost_s:g} s; it is lost", now_s)

    def _lose(self, group: Group, reason: str, now_s: float) -> None:
        """Forget a group whose machine is lost.

        Should it come back, with a run that was given to another group meanwhile, it is as any
        that tells of a run without a lease: told to leave it, and welcome.
        """
        if not group.gone:
            logger.error("group %s: %s", group.name, reason)
            self._end_life(group, now_s)
        del self._board.groups[group.name]

    def _kill(self, name: str, reason: str) -> None:
        group = self._board.groups[name]
        group.killed_at_s, group.kill_reason = self._board.awake.now_s, reason
        logger.error("group %s, epoch %d: %s", group.name, group.epoch, group.kill_reason)
        message = KillGroup(group=group.name, epoch=group.epoch, reason=group.kill_reason)
        self._board.emit(ToLauncher(group.name, message))

    def _add(self, name: str, epoch: int) -> Group:
        known = self._board.groups.get(name)
        group = Group(
            name=name,
            epoch=epoch,
            watch=RankWatch(self._board.awake.now_s, self._step_limit_s),
            heard_s=self._board.awake.now_s,
            restarts=0 if known is None else known.restarts + 1,
        )
        self._board.groups[name] = group
        return group

    def _meet(self, name: str, epoch: int, now_s: float) -> Group | None:
        """Return the group in this life of it; None if that life is over."""
        group = self._board.groups.get(name)
        if group is not None and (epoch < group.epoch or (epoch == group.epoch and group.gone)):
            logger.warning("dropped a report of group %s, epoch %d, which is over", name, epoch)
            return None
        if group is None or epoch > group.epoch:
            if group is not None:
                self._end_life(group, now_s)
            group = self._add(name, epoch)
        group.registered = True
        group.heard_s = self._board.awake.now_s
        return group

    def _launched(self, report: GroupStarted, now_s: float) -> None:
        group = self._board.groups.get(report.group)
        if group is not None and not group.registered and report.epoch < group.epoch:
            # The journal names a later life, as after a clock was set back. The launcher is right:
            # it starts a life only after the last one has been reaped.
            self._end_life(group, now_s)
            self._add(report.group, report.epoch)
        group = self._meet(report.group, report.epoch, now_s)
        if group is not None and not group.watch.world_size:
            group.watch.expect_all(report.world_size, self._board.awake.now_s)

    def _ready(self, report: GroupReady, now_s: float) -> None:
        group = self._meet(report.group, report.epoch, now_s)
        if group is None:
            return
        awake_s = self._board.awake.now_s
        if group.shape is None:
            group.shape = report.shape
            group.watch.patience = report.patience
            group.watch.expect_all(report.shape.world_size, awake_s)
            logger.info("group %s, epoch %d is ready", group.name, group.epoch)
        for lease in report.running:
            self._confirm(group, lease, now_s)
        for run in list(group.runs.values()):
            if run.started and run.lease not in report.running:
                self._miss(group, run, now_s)
        for run in group.runs.values():
            if not run.started and run.deadline_s is None:
                # The group does not know of a run that the journal has given it.
                run.expect_start(awake_s)

    def _confirm(self, group: Group, lease: Lease, now_s: float) -> None:
        run = group.find(lease)
        if run is not None:
            run.num_missed = 0
            # A run with a deadline has been sent a moment ago: only `JobStarted` meets it.
            if run.deadline_s is None:
                run.start(now_s)
            if run.preempted:
                # It may not have heard.
                self._board.emit(ToGroup(group.name, PreemptRun(lease=lease)))
        elif (lease.group, lease.epoch) == (group.name, group.epoch):
            # It was cancelled, or given up, while the broker was away.
            logger.warning("group %s still runs job %s; stopping it", group.name, lease.job_id)
            run = group.runs[lease.job_id] = Attempt(
                lease, StageProgress(now_s, Stage.ENCODE), started=True
            )
            run.cancel(self._board.awake.now_s)
            self._board.emit(ToGroup(group.name, CancelRun(lease=lease)))

    def _miss(self, group: Group, run: Attempt, now_s: float) -> None:
        """Ask for the end of a run that its group has left: the report went with a dead line."""
        run.num_missed += 1
        if run.num_missed <= NUM_ASKED:
            self._board.emit(AskHowItEnded(run.lease))
            return
        logger.error("group %s cannot tell how job %s ended", group.name, run.lease.job_id)
        del group.runs[run.lease.job_id]
        self._runs.lose(run, now_s)

    def _drain(self, report: DrainGroup, now_s: float) -> None:
        group = self._meet(report.group, report.epoch, now_s)
        if group is not None:
            group.leaving = group.draining = True
            self.report_drained(group.name)

    def _gone(self, report: GroupGone, now_s: float) -> None:
        group = self._meet(report.group, report.epoch, now_s)
        if group is not None:
            logger.warning("group %s, epoch %d is gone: %s", group.name, group.epoch, report.reason)
            self._end_life(group, now_s)

    def _end_life(self, group: Group, now_s: float) -> None:
        """Take back every run of a group of which no process is left."""
        group.gone = True
        runs, group.runs = list(group.runs.values()), {}
        for run in runs:
            self._runs.lose(run, now_s)
