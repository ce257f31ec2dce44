"""The lives of groups: when one starts, is ready, hangs, and is gone."""

import logging
from collections.abc import Collection
from typing import assert_never

from broker.dispatch.attempt_lifecycle import AttemptLifecycle
from broker.dispatch.commands import AskHowItEnded, ToGroup, ToLauncher
from broker.dispatch.dispatch_state import DispatchState
from broker.dispatch.groups import Attempt, Group
from broker.dispatch.job_record import Job
from broker.dispatch.liveness import RankWatch
from broker.dispatch.model_lifecycle import ModelLifecycle
from broker.dispatch.pace import StageProgress
from broker.dispatch.policy import DispatchPolicy
from broker.wire.group_commands import CancelRun, GroupDrained, KillGroup, PreemptRun
from broker.wire.group_reports import DrainGroup, GroupGone, GroupLost, GroupReady, GroupStarted
from broker.wire.job import Stage
from broker.wire.job_view import Lease
from broker.wire.rank_messages import Heartbeat

logger = logging.getLogger(__name__)

KILL_AGAIN_S = 10.0
FORGOTTEN_S = 600.0
MAX_MISSED = 2

LifeReport = GroupStarted | GroupReady | GroupGone | GroupLost | DrainGroup


class GroupLifecycle:
    """Follows the reports about groups, and has hung groups killed.

    Args:
        state: Of the dispatcher.
        attempts: Takes back the attempts of a life that is over.
        models: Learns the models of groups.
        policy: How long steps may take, and groups on other machines may be silent. On one machine
            silence means nothing: the launcher reports when a group is reaped, or ends together
            with the broker.
    """

    def __init__(
        self,
        state: DispatchState,
        attempts: AttemptLifecycle,
        models: ModelLifecycle,
        policy: DispatchPolicy,
    ) -> None:
        self._state = state
        self._attempts = attempts
        self._models = models
        self._step_limit_s = policy.step_limit_s
        self._lost_s = policy.lost_s if policy.is_open else None

    def handle(self, report: LifeReport, now_s: float) -> None:
        match report:
            case GroupStarted():
                self._on_started(report, now_s)
            case GroupReady():
                self._on_ready(report, now_s)
            case GroupGone():
                self._on_gone(report, now_s)
            case GroupLost():
                if (group := self._state.groups.get(report.group)) is not None:
                    self._forget(group, "its machine is lost", now_s)
            case DrainGroup():
                self._on_drain(report, now_s)
            case _:
                assert_never(report)
        self._state.groups.reindex(report.group)

    def on_heartbeat(self, heartbeat: Heartbeat, now_s: float) -> None:
        group = self._state.groups.get(heartbeat.group)
        if group is not None and group.epoch == heartbeat.epoch:
            group.heard_s = self._state.awake.at(now_s)
            group.watch.observe(heartbeat, group.heard_s)

    def is_repeated(self, report: GroupStarted, now_s: float) -> bool:
        group = self._state.groups.get(report.group)
        if group is None or group.epoch != report.epoch or group.gone:
            return False
        if not (group.registered and group.watch.world_size):
            return False
        group.heard_s = self._state.awake.at(now_s)
        return True

    def adopt(self, job: Job, lease: Lease, now_s: float) -> None:
        # The group may still be running the job.
        group = self._state.groups.get(lease.group) or self._add(lease.group, lease.epoch)
        group.attempts[lease.job_id] = self._state.new_attempt(job, lease, now_s)
        self._state.groups.reindex(group.name)

    def drop_unknown_groups(self, names: Collection[str], now_s: float) -> None:
        for group in self._state.groups:
            if not group.registered and group.name not in names:
                logger.warning("group %s is not started any more; taking its jobs back", group.name)
                self._end_life(group, now_s)

    def kill_hung_groups(self, now_s: float) -> None:
        if self._lost_s is not None:
            self._forget_silent(self._lost_s, now_s)
        awake_s = self._state.awake.now_s
        for group in self._state.groups:
            if group.gone or not group.registered:
                continue
            if group.killed_at_s is None:
                reason = group.fault(awake_s)
                if reason is not None:
                    self._kill(group, reason)
            elif awake_s - group.killed_at_s > KILL_AGAIN_S:
                self._kill(group, group.kill_reason)

    def report_drained(self, name: str) -> None:
        group = self._state.groups.get(name)
        if group is not None and group.draining and not group.attempts:
            group.draining = False
            drained = GroupDrained(group=name, epoch=group.epoch)
            self._state.emit(ToLauncher(name, drained))

    def _forget_silent(self, lost_s: float, now_s: float) -> None:
        awake_s = self._state.awake.now_s
        silent = [
            group
            for group in self._state.groups
            if awake_s - group.heard_s > (FORGOTTEN_S if group.gone else lost_s)
        ]
        for group in silent:
            self._forget(group, f"silent for {lost_s:g} s; its machine is lost", now_s)

    def _forget(self, group: Group, reason: str, now_s: float) -> None:
        """Forget a group whose machine is lost.

        If it returns with an attempt that went to another group meanwhile, it is asked to leave
        that attempt, as any group is that lists one without a lease.
        """
        if not group.gone:
            logger.error("group %s: %s", group.name, reason)
            self._end_life(group, now_s)
        self._state.groups.remove(group.name)

    def _kill(self, group: Group, reason: str) -> None:
        group.killed_at_s, group.kill_reason = self._state.awake.now_s, reason
        self._state.groups.reindex(group.name)
        logger.error("group %s, epoch %d: %s", group.name, group.epoch, reason)
        message = KillGroup(group=group.name, epoch=group.epoch, reason=reason)
        self._state.emit(ToLauncher(group.name, message))

    def _add(self, name: str, epoch: int) -> Group:
        known = self._state.groups.get(name)
        awake_s = self._state.awake.now_s
        group = Group(
            name=name,
            epoch=epoch,
            watch=RankWatch(awake_s, self._step_limit_s),
            heard_s=awake_s,
            restarts=0 if known is None else known.restarts + 1,
        )
        self._state.groups.put(group)
        return group

    def _present_life(self, name: str, epoch: int, now_s: float) -> Group | None:
        """Return the group in this life of it, begun if it is new; None if that life is over."""
        group = self._state.groups.get(name)
        if group is not None and (epoch < group.epoch or (epoch == group.epoch and group.gone)):
            logger.warning("dropped a report of group %s, epoch %d, which is over", name, epoch)
            return None
        if group is None or epoch > group.epoch:
            if group is not None:
                self._end_life(group, now_s)
            group = self._add(name, epoch)
        group.registered = True
        group.heard_s = self._state.awake.now_s
        return group

    def _on_started(self, report: GroupStarted, now_s: float) -> None:
        group = self._state.groups.get(report.group)
        if group is not None and not group.registered and report.epoch < group.epoch:
            # The journal names a later life, as after a clock was set back. The launcher is right:
            # it starts a life only after the last one has been reaped.
            self._end_life(group, now_s)
            self._add(report.group, report.epoch)
        group = self._present_life(report.group, report.epoch, now_s)
        if group is not None and not group.watch.world_size:
            group.watch.expect_all(report.world_size, self._state.awake.now_s)

    def _on_ready(self, report: GroupReady, now_s: float) -> None:
        group = self._present_life(report.group, report.epoch, now_s)
        if group is None:
            return
        awake_s = self._state.awake.now_s
        if group.shape is None:
            self._begin_service(group, report, now_s)
        for lease in report.running:
            self._confirm(group, lease, now_s)
        for attempt in list(group.attempts.values()):
            if attempt.started and attempt.lease not in report.running:
                self._miss(group, attempt, now_s)
        for attempt in group.attempts.values():
            if not attempt.started and attempt.deadline_s is None:
                # The group does not know of an attempt that the journal has given it.
                attempt.expect_start(awake_s)

    def _begin_service(self, group: Group, report: GroupReady, now_s: float) -> None:
        model = report.shape.model
        conflict = self._models.conflict(model)
        if conflict is not None:
            # Reports are repeated: it serves once the others are gone.
            if conflict != group.set_aside:
                logger.error("group %s gets no jobs: %s", group.name, conflict)
            group.set_aside = conflict
            return
        group.shape, group.set_aside = report.shape, ""
        group.watch.patience = report.patience
        group.watch.expect_all(report.shape.world_size, self._state.awake.now_s)
        self._models.learn(model, now_s)
        logger.info("group %s, epoch %d is ready with %s", group.name, group.epoch, model.name)

    def _confirm(self, group: Group, lease: Lease, now_s: float) -> None:
        attempt = group.find(lease)
        if attempt is not None:
            attempt.num_missed = 0
            # An attempt with a deadline was sent a moment ago: only `JobStarted` meets it.
            if attempt.deadline_s is None:
                attempt.start(now_s)
            if attempt.preempted:
                # The command may have been lost.
                self._state.emit(ToGroup(group.name, PreemptRun(lease=lease)))
        elif (lease.group, lease.epoch) == (group.name, group.epoch):
            # It was cancelled, or given up, while the broker was away.
            logger.warning("group %s still runs job %s; stopping it", group.name, lease.job_id)
            attempt = Attempt(lease, StageProgress(now_s, Stage.ENCODE), started=True)
            attempt.cancel(self._state.awake.now_s)
            group.attempts[lease.job_id] = attempt
            self._state.emit(ToGroup(group.name, CancelRun(lease=lease)))

    def _miss(self, group: Group, attempt: Attempt, now_s: float) -> None:
        attempt.num_missed += 1
        if attempt.num_missed <= MAX_MISSED:
            # The report of its end may be lost.
            self._state.emit(AskHowItEnded(attempt.lease))
            return
        job_id = attempt.lease.job_id
        logger.error("group %s does not know how job %s ended", group.name, job_id)
        del group.attempts[job_id]
        self._attempts.lose(attempt, now_s)

    def _on_drain(self, report: DrainGroup, now_s: float) -> None:
        group = self._present_life(report.group, report.epoch, now_s)
        if group is not None:
            group.leaving = group.draining = True
            self.report_drained(group.name)

    def _on_gone(self, report: GroupGone, now_s: float) -> None:
        group = self._present_life(report.group, report.epoch, now_s)
        if group is not None:
            level = logging.INFO if group.leaving or self._state.draining else logging.WARNING
            told = (group.name, group.epoch, report.reason)
            logger.log(level, "group %s, epoch %d is gone: %s", *told)
            self._end_life(group, now_s)

    def _end_life(self, group: Group, now_s: float) -> None:
        group.gone = True
        attempts, group.attempts = list(group.attempts.values()), {}
        self._state.groups.reindex(group.name)
        for attempt in attempts:
            self._attempts.lose(attempt, now_s)
