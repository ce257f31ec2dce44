"""What `/metrics` tells a Prometheus server; never a job's id, nor anything that a client wrote."""

from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from broker.wire.job import Stage
from broker.wire.protocol import HealthFound, JobView

_DURATIONS_S = (1, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600)
_STEPS_S = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120)
_FRESH_S = 5.0


class Metrics:
    """The metrics of one front. Counters count what it has seen since its start."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._live: dict[str, JobView] = {}
        self.http_requests = Counter(
            "wan_http_requests", "Requests.", ["route", "code"], registry=registry
        )
        self._jobs = Counter("wan_jobs", "Jobs that have ended.", ["status"], registry=registry)
        self._queue_s = Histogram(
            "wan_job_queue_seconds",
            "From submit to the start of the last attempt.",
            buckets=_DURATIONS_S,
            registry=registry,
        )
        self._duration_s = Histogram(
            "wan_job_duration_seconds",
            "From submit to end.",
            ["status"],
            buckets=_DURATIONS_S,
            registry=registry,
        )
        self._stage_s = Histogram(
            "wan_stage_seconds",
            "Time in a stage, of jobs that succeeded.",
            ["stage"],
            buckets=_DURATIONS_S,
            registry=registry,
        )
        self._step_s = Histogram(
            "wan_step_seconds", "One denoising step.", buckets=_STEPS_S, registry=registry
        )
        self._health = _Health(registry)
        Info("wan_build", "What runs.", registry=registry).info({"version": version("wan-ranks")})

    def hear(self, job: JobView) -> None:
        """Take a change of a job; those that come twice, and late, count once."""
        before = self._live.get(job.job_id)
        if job.state.is_terminal:
            if before is not None:
                del self._live[job.job_id]
                self._count_end(job)
        elif before is None or job.seq > before.seq:
            self._live[job.job_id] = job
            if before is not None:
                self._time_step(before, job)

    def expose(self, health: HealthFound | None) -> bytes:
        """Return all metrics as text; None is a broker that does not answer."""
        self._health.set(health)
        return generate_latest(self.registry)

    def _count_end(self, job: JobView) -> None:
        status = job.state.value
        self._jobs.labels(status).inc()
        self._duration_s.labels(status).observe(job.updated_at - job.created_at)
        if "queue" in job.stage_s:
            self._queue_s.observe(job.stage_s["queue"])
        if job.video is not None:
            for stage in Stage:
                if stage.value in job.stage_s:
                    self._stage_s.labels(stage.value).observe(job.stage_s[stage.value])

    def _time_step(self, before: JobView, job: JobView) -> None:
        is_run_on = before.stage is job.stage is Stage.DENOISE and before.attempt == job.attempt
        num_steps = job.step - before.step
        if is_run_on and num_steps > 0:
            self._step_s.observe((job.updated_at - before.updated_at) / num_steps)


class _Health:
    """The gauges: how things are at the moment of the question."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, about: str, *labels: str) -> Gauge:
            return Gauge(f"wan_{name}", about, labels, registry=registry)

        self._broker_up = gauge("broker_up", "Whether the broker answers.")
        self._queued = gauge("jobs_queued", "Jobs that wait.")
        self._running = gauge("jobs_running", "Jobs that run, or whose file is being written.")
        self._groups = gauge("groups_ready", "Groups that take jobs.")
        self._alive = gauge("ranks_alive", "Ranks that have beaten lately.")
        self._restarts = gauge("group_restarts", "Lives of a group after its first.", "group")
        self._memory = gauge("device_memory_bytes", "In use by a rank.", "group", "rank")

    def set(self, told: HealthFound | None) -> None:
        """Take what the broker has told."""
        self._broker_up.set(told is not None)
        groups = [] if told is None else told.groups
        ranks = [(group.group, rank) for group in groups for rank in group.ranks]
        self._queued.set(0 if told is None else told.queued)
        self._running.set(0 if told is None else told.running)
        self._groups.set(sum(group.ready for group in groups))
        self._alive.set(sum(rank.beat_age_s < _FRESH_S for _, rank in ranks))
        for group in groups:
            self._restarts.labels(group.group).set(group.restarts)
        self._memory.clear()  # a rank that is gone uses none
        for name, rank in ranks:
            self._memory.labels(name, str(rank.rank)).set(rank.memory_bytes)
