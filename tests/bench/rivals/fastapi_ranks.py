"""Rival 1: the architecture that this project replaces, written for the comparison.

`torchrun --nproc_per_node=8 -m tests.bench.rivals.fastapi_ranks` takes a model path, a port and a
folder. Every rank is an interpreter of its own; rank 0 answers HTTP, keeps the tasks in memory, and
runs them one after the other in a thread beside its event loop. The models, the parallel denoising
loop and the video file are this project's own.
"""

import argparse
import asyncio
import base64
import io
import os
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch
import uvicorn
from fastapi import FastAPI, HTTPException
from PIL import Image
from torch import Tensor

from broker.dispatch.pace import fraction_done
from broker.store.folder import FolderStore
from broker.store.store import VIDEOS
from broker.wire.job import JobSpec, Stage
from broker.wire.job_view import Lease
from broker.wire.model_profile import ModelProfile
from broker.wire.sockets import Addresses
from ranks.config import RankConfig
from ranks.control import ANNOUNCE_EVERY_S
from ranks.device import open_device
from ranks.engine import Engine
from ranks.environment import set_environment_defaults
from ranks.media.video_writer import VideoWriter
from ranks.run import LocalJob, Run
from ranks.serve import start_engine
from tests.bench.rivals.body import Ask, Status, Submit, Submitted

SAVE_LIMIT_S = 60.0


class Order(msgspec.Struct):
    """A command that rank 0 broadcasts."""

    spec: JobSpec
    image: str


@dataclass
class Job:
    """A task in rank 0's memory."""

    job_id: str
    order: Order
    status: str = "InQueue"
    progress: float = 0.0
    video_path: str | None = None
    reason: str | None = None
    created_at: float = field(default_factory=time.time)
    updated_at: float = field(default_factory=time.time)

    # --- called by the run, as its observer ------------------------------------------------------

    stage: Stage = Stage.ENCODE
    num_done: int = 0

    def enter(self, stage: Stage) -> None:
        self.stage, self.num_done = stage, 0

    def finish_step(self, num_steps: int) -> None:
        self.num_done += 1
        self.progress = fraction_done(self.stage, self.num_done, num_steps)
        self.updated_at = time.time()

    def skip_steps(self, steps: object) -> None:
        """Do nothing: this rival shows none."""

    def finish_part(self, done: float, num_steps: int) -> None:
        """Do nothing: this rival shows whole steps."""

    def show(self, latents: Tensor) -> None:
        """Do nothing: this rival makes no previews."""

    def offer_state(self, step: int, state: object) -> None:
        """Do nothing: this rival saves no checkpoints."""


class Service:
    """Rank 0: the tasks, and the thread that runs them.

    Args:
        engine: The loaded rank.
        folder: For images and videos.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine = engine
        self._folder = folder
        self._jobs: dict[str, Job] = {}
        self._queue: asyncio.Queue[Job] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1)

    async def submit(self, body: Submit) -> Submitted:
        job_id = secrets.token_hex(16)
        image = self._folder / f"{job_id}.png"
        await asyncio.to_thread(_store_image, body.image_url, image)
        spec = msgspec.convert(body.model_dump(exclude={"image_url"}), JobSpec)
        job = self._jobs[job_id] = Job(job_id, Order(spec, str(image)))
        await self._queue.put(job)
        return Submitted(requestId=job_id)

    async def status(self, body: Ask) -> Status:
        job = self._jobs.get(body.requestId)
        if job is None:
            raise HTTPException(404, "no such task")
        waiting = [other.job_id for other in self._jobs.values() if other.status == "InQueue"]
        place = waiting.index(job.job_id) + 1 if job.status == "InQueue" else None
        return Status.model_validate(
            {name: getattr(job, name) for name in Status.model_fields if name != "queue_position"}
            | {"queue_position": place}
        )

    async def health(self) -> dict[str, object]:
        return {"status": "healthy", "total_tasks": len(self._jobs)}

    async def work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(ANNOUNCE_EVERY_S):
                    job = await self._queue.get()
            except TimeoutError:
                await loop.run_in_executor(self._thread, self._engine.control.announce)
                continue
            await loop.run_in_executor(self._thread, self._run, job)

    def _run(self, job: Job) -> None:
        job.status = "InProgress"
        try:
            self._make(job)
        except Exception as error:  # noqa: BLE001 - the next task must run
            job.status, job.reason = "Failed", str(error)
        job.updated_at = time.time()

    def _make(self, job: Job) -> None:
        self._engine.control.announce(msgspec.msgpack.encode(job.order))
        lease = Lease(group="rival", epoch=1, job_id=job.job_id, attempt=1)
        failures: list[Exception | None] = []
        store = FolderStore(self._folder)
        writer = VideoWriter(
            lease,
            job.order.spec,
            ModelProfile(),
            Path(job.order.image),
            store,
            lambda: False,
            lambda _: None,
            lambda failure, _: failures.append(failure),
        )
        with torch.inference_mode():
            for frames in Run(self._engine, _task(job.order), job).frames():
                writer.add(frames)
        writer.finish()
        writer.wait(SAVE_LIMIT_S)
        job.status = "Succeed" if failures == [None] else "Failed"
        job.video_path = str(store.local(f"{VIDEOS}/{job.job_id}.mp4"))


class Silent:
    """The observer of the other ranks, which reports nothing."""

    def enter(self, stage: Stage) -> None:
        pass

    def finish_step(self, num_steps: int) -> None:
        pass

    def skip_steps(self, steps: object) -> None:
        pass

    def finish_part(self, done: float, num_steps: int) -> None:
        pass

    def show(self, latents: Tensor) -> None:
        pass

    def offer_state(self, step: int, state: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-path", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    set_environment_defaults(arguments.folder)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    config = _rank_config(arguments.model_path, arguments.folder, world_size)
    with torch.inference_mode():
        engine = start_engine(config, rank, open_device(config.device, rank, world_size))
    if rank == 0:
        asyncio.run(_serve(Service(engine, arguments.folder), arguments.port))
    else:
        _follow(engine)


async def _serve(service: Service, port: int) -> None:
    app = FastAPI()
    app.add_api_route("/video/submit", service.submit, methods=["POST"], status_code=202)
    app.add_api_route("/video/status", service.status, methods=["POST"])
    app.add_api_route("/health", service.health, methods=["GET"])
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", access_log=False))
    worker = asyncio.create_task(service.work())
    await server.serve()
    worker.cancel()


def _follow(engine: Engine) -> None:
    with torch.inference_mode():
        while True:
            payload = engine.control.announce()
            if payload:
                order = msgspec.msgpack.decode(payload, type=Order)
                for _ in Run(engine, _task(order), Silent()).frames():
                    pass


def _rank_config(model_path: str, folder: Path, world_size: int) -> RankConfig:
    return RankConfig(
        group="rival",
        epoch=1,
        world_size=world_size,
        model_path=model_path,
        device="cpu",
        addresses=Addresses.in_folder(folder),
        store=str(folder),
        rendezvous=str(folder / "rendezvous"),
        parent_pid=os.getppid(),
    )


def _task(order: Order) -> LocalJob:
    return LocalJob(spec=order.spec, image=Path(order.image))


def _store_image(url: str, path: Path) -> None:
    content = base64.b64decode(url.partition(",")[2], validate=True)
    Image.open(io.BytesIO(content)).convert("RGB").save(path)


if __name__ == "__main__":
    main()
