"""Metrics for Prometheus, and their route. They hold no job ids and no text from clients."""

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    generate_latest,
)

from broker.process.installed_version import installed_version
from broker.wire.job import Stage
from broker.wire.job_view import JobView
from broker.wire.replies import HealthFound
from broker.wire.requests import GetHealth
from http_front.broker_client import HEALTH_LIMIT_S
from http_front.errors import FrontError
from http_front.state import FRONT

_DURATIONS_S = (1, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600)
_STEPS_S = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120)
_ALIVE_WITHIN_S = 5.0


class Metrics:
    """The metrics of one front. Counters start at zero with the process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._live: dict[str, JobView] = {}
        self._stepped: dict[str, JobView] = {}
        """The running jobs as they were at the end of their latest step."""
        self.http_requests = Counter(
            "wan_http_requests", "HTTP requests.", ["route", "code"], registry=registry
        )
        self._jobs = Counter("wan_jobs", "Jobs that ended.", ["status"], registry=registry)
        self._queue_s = Histogram(
            "wan_job_queue_seconds",
            "Time from submission to the start of the last attempt.",
            buckets=_DURATIONS_S,
            registry=registry,
        )
        self._duration_s = Histogram(
            "wan_job_duration_seconds",
            "Time from submission to the end of the job.",
            ["status"],
            buckets=_DURATIONS_S,
            registry=registry,
        )
        self._stage_s = Histogram(
            "wan_stage_seconds",
            "Time spent in a stage by successful jobs.",
            ["stage"],
            buckets=_DURATIONS_S,
            registry=registry,
        )
        self._step_s = Histogram(
            "wan_step_seconds", "Time of one denoising step.", buckets=_STEPS_S, registry=registry
        )
        self._health = _Health(registry)
        Info("wan_build", "Version of the server.", registry=registry).info(
            {"version": installed_version()}
        )

    def record(self, job: JobView) -> None:
        """Record a change of a job. Repeated and late changes are not counted twice."""
        before = self._live.get(job.job_id)
        if job.state.is_terminal:
            self._stepped.pop(job.job_id, None)
            if before is not None:
                del self._live[job.job_id]
                self._count_end(job)
        elif before is None or job.seq > before.seq:
            self._live[job.job_id] = job
            self._time_step(job)

    def expose(self, health: HealthFound | None) -> bytes:
        """Return all metrics as text; `health` is None if the broker does not reply."""
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

    def _time_step(self, job: JobView) -> None:
        before = self._stepped.get(job.job_id, job)
        is_part = (before.attempt, before.stage, before.step) == (job.attempt, job.stage, job.step)
        if job.step == 0 or (is_part and before is not job):
            return
        self._stepped[job.job_id] = job
        is_denoising = before.stage is job.stage is Stage.DENOISE
        num_steps = job.step - before.step
        if is_denoising and before.attempt == job.attempt and num_steps > 0:
            self._step_s.observe((job.updated_at - before.updated_at) / num_steps)


class _Health:
    """The gauges, set at each scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, about: str, *labels: str) -> Gauge:
            return Gauge(f"wan_{name}", about, labels, registry=registry)

        self._broker_up = gauge("broker_up", "Whether the broker replies: 1 or 0.")
        self._queued = gauge("jobs_queued", "Jobs waiting in the queue.")
        self._running = gauge("jobs_running", "Jobs running or writing their video file.")
        self._groups = gauge("groups_ready", "Groups that accept jobs.")
        self._alive = gauge(
            "ranks_alive", f"Ranks with a heartbeat in the last {_ALIVE_WITHIN_S:g} s."
        )
        self._restarts = gauge("group_restarts", "Restarts of a group.", "group")
        self._memory = gauge(
            "device_memory_bytes", "Device memory used by a rank.", "group", "rank"
        )

    def set(self, health: HealthFound | None) -> None:
        self._broker_up.set(health is not None)
        groups = [] if health is None else health.groups
        ranks = [(group.group, rank) for group in groups for rank in group.ranks]
        self._queued.set(0 if health is None else health.queued)
        self._running.set(0 if health is None else health.running)
        self._groups.set(sum(group.ready for group in groups))
        self._alive.set(sum(rank.beat_age_s < _ALIVE_WITHIN_S for _, rank in ranks))
        self._restarts.clear()  # drops groups and ranks that no longer exist
        self._memory.clear()
        for group in groups:
            self._restarts.labels(group.group).set(group.restarts)
        for name, rank in ranks:
            self._memory.labels(name, str(rank.rank)).set(rank.memory_bytes)


METRICS = web.AppKey("metrics", Metrics)


async def metrics(request: web.Request) -> web.Response:
    """Return all metrics, even if the broker does not reply."""
    try:
        health = await request.app[FRONT].broker.ask(GetHealth(), HEALTH_LIMIT_S)
    except FrontError:
        health = None
    assert health is None or isinstance(health, HealthFound)
    text = request.app[METRICS].expose(health)
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})


@web.middleware
async def count_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    resource = request.match_info.route.resource
    route = "none" if resource is None else resource.canonical
    request.app[METRICS].http_requests.labels(route, str(response.status)).inc()
    return response
