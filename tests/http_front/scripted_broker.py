"""A broker scripted by a test: a real peer on real sockets, without journal or groups."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import zmq
import zmq.asyncio

from broker.job_search import has_words
from broker.wire.errors import ErrorCode
from broker.wire.events import job_events
from broker.wire.job import JobSpec, JobState
from broker.wire.job_view import JobView
from broker.wire.model_profile import ModelProfile
from broker.wire.replies import (
    BackedUp,
    CallbackEnded,
    CallbackTaken,
    DrainBegun,
    ExpiredRemoved,
    FrontReply,
    HealthFound,
    JobAcceptable,
    JobDeleted,
    JobFound,
    JobHistory,
    JobsListed,
    ModelsFound,
    ModelView,
    ProbeChecked,
    Refused,
    front_replies,
)
from broker.wire.requests import (
    BackUp,
    CancelJob,
    DeleteJob,
    DrainServer,
    EndCallback,
    FindProbe,
    FrontRequest,
    GetHealth,
    GetJob,
    KeepJob,
    ListJobs,
    ListModels,
    OfferJob,
    RemoveExpired,
    SubmitJob,
    TakeCallback,
    WatchJob,
    front_requests,
)
from broker.wire.sockets import Addresses, bind_router, bind_xpub

_DONE: dict[type, FrontReply] = {
    EndCallback: CallbackEnded(),
    DrainServer: DrainBegun(running=0),
    FindProbe: ProbeChecked(found=True),
    BackUp: BackedUp(num_bytes=0),
}

Script = Callable[[FrontRequest], FrontReply | None]
"""Returns the reply to a request; None selects the default reply."""


def models_found(*profiles: ModelProfile) -> ModelsFound:
    """Return the reply of a broker with a ready group of each model; the first is the default."""
    views = [ModelView(profile=p, num_ready_groups=1, num_waiting_jobs=0) for p in profiles]
    return ModelsFound(models=views, default=profiles[0].name if profiles else None)


class ScriptedBroker:
    """Keeps jobs in memory. `script` may override replies; `silent` suppresses all of them."""

    def __init__(self, run_dir: Path) -> None:
        self.addresses = Addresses.in_folder(run_dir)
        self.history: dict[str, list[JobView]] = {}
        self.specs: dict[str, JobSpec] = {}
        self.images: dict[str, str] = {}
        self.asked: list[FrontRequest] = []
        self.last_images: dict[str, str | None] = {}
        self.models = models_found(ModelProfile())
        self.health = HealthFound(ready=True, draining=False, queued=0, running=0, groups=[])
        self.script: Script = lambda _request: None
        self.silent = False
        self._last_front = b""
        self.subscribed: asyncio.Queue[bytes] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        self._context = zmq.asyncio.Context()
        self._requests = bind_router(self._context.socket(zmq.ROUTER), self.addresses.requests)
        self._events = bind_xpub(self._context.socket(zmq.XPUB), self.addresses.events)
        self._tasks = [asyncio.create_task(self._serve()), asyncio.create_task(self._listen())]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        self._context.destroy(linger=0)

    async def change(self, job_id: str, *, publish: bool = True, **changes: object) -> JobView:
        """Change a job, and publish the change unless its event should be lost."""
        before = self.history[job_id][-1]
        view = msgspec.structs.replace(
            before, seq=before.seq + 1, updated_at=time.time(), **changes
        )
        self.history[job_id].append(view)
        if publish:
            await self.publish(view)
        return view

    async def publish(self, view: JobView) -> None:
        await self._events.send_multipart([view.job_id.encode(), *job_events.encode(view)])

    async def send_raw(self, *parts: bytes) -> None:
        """Send an event that a real broker would not send."""
        await self._events.send_multipart(parts)

    async def send_to_front(self, *parts: bytes) -> None:
        """Send a reply that a real broker would not send, to the front that asked last."""
        await self._requests.send_multipart([self._last_front, *parts])

    async def _listen(self) -> None:
        while True:
            await self.subscribed.put((await self._events.recv_multipart())[0])

    async def _serve(self) -> None:
        while True:
            identity, correlation, *parts = await self._requests.recv_multipart()
            request = front_requests.decode(parts)
            self.asked.append(request)
            self._last_front = identity
            if not self.silent:
                reply = self.script(request) or self._answer(request)
                await self._requests.send_multipart(
                    [identity, correlation, *front_replies.encode(reply)]
                )

    def _answer(self, request: FrontRequest) -> FrontReply:
        match request:
            case OfferJob():
                return JobAcceptable()
            case SubmitJob():
                return JobFound(job=self._accept(request))
            case GetJob() | WatchJob() | CancelJob() | DeleteJob() | KeepJob():
                job_id = request.job_id
                if job_id not in self.history:
                    return Refused(code=ErrorCode.JOB_NOT_FOUND, message="there is no such job")
                return self._answer_about(request, self.history[job_id])
            case ListJobs():
                return self._page(request)
            case GetHealth() | ListModels():
                return self.health if isinstance(request, GetHealth) else self.models
            case RemoveExpired():
                return ExpiredRemoved(removed=len(self.history))
            case TakeCallback():
                return CallbackTaken(callback=None)
            case EndCallback() | DrainServer() | FindProbe() | BackUp():
                return _DONE[type(request)]

    def _page(self, request: ListJobs) -> JobsListed:
        ids = list(self.history) if request.oldest_first else list(reversed(self.history))
        ids = ids[ids.index(request.after) + 1 if request.after else 0 :]
        views = [self._with_spec(self.history[job_id][-1]) for job_id in ids]
        jobs = [view for view in views if _is_wanted(request, view)]
        return JobsListed(jobs=jobs[: request.limit], has_more=len(jobs) > request.limit)

    def _answer_about(self, request: FrontRequest, views: list[JobView]) -> FrontReply:
        if isinstance(request, WatchJob):
            return JobHistory(jobs=[v for v in views if v.seq > request.after_seq] or views[-1:])
        if isinstance(request, DeleteJob):
            del self.history[request.job_id]
            return JobDeleted()
        if isinstance(request, KeepJob):
            views[-1] = msgspec.structs.replace(views[-1], kept=request.keep)
        if isinstance(request, CancelJob) and not views[-1].state.is_terminal:
            last = views[-1]
            views.append(msgspec.structs.replace(last, seq=last.seq + 1, state=JobState.CANCELLED))
        return JobFound(job=self._with_spec(views[-1]))

    def _with_spec(self, view: JobView) -> JobView:
        job_id = view.job_id
        return msgspec.structs.replace(
            view,
            spec=self.specs.get(job_id),
            image=self.images.get(job_id),
            last_image=self.last_images.get(job_id),
        )

    def _accept(self, request: SubmitJob) -> JobView:
        self.specs[request.job_id] = request.spec
        self.images[request.job_id] = request.image
        self.last_images[request.job_id] = request.last_image
        now_s = time.time()
        view = JobView(
            job_id=request.job_id,
            seq=1,
            state=JobState.IN_QUEUE,
            progress=0.0,
            created_at=now_s,
            updated_at=now_s,
            queue_position=1,
        )
        return self.history.setdefault(request.job_id, [view])[-1]


def _is_wanted(request: ListJobs, view: JobView) -> bool:
    if (request.states and view.state not in request.states) or (request.kept and not view.kept):
        return False
    return not request.words or (
        view.spec is not None and has_words(view.spec, view.job_id, request.words)
    )
