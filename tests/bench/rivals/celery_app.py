"""Rival 2: FastAPI, Celery and Redis, the usual way to put long work behind an HTTP API.

`uvicorn tests.bench.rivals.celery_app:api` serves requests,
`celery -A tests.bench.rivals.celery_app worker` does the work; `REDIS_URL` is Redis' address.
"""

import os
import time

from celery import Celery
from fastapi import FastAPI

from tests.bench.rivals.body import Submit, Submitted

SLEEP_S = 3600.0

queue = Celery("videos", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
queue.conf.update(
    # A job is taken off the queue only when it is done, so that a dead worker loses none.
    task_acks_late=True,
    worker_prefetch_multiplier=1,
)


def make_video(job: dict[str, object]) -> None:
    """Sleep instead of working: only the path to the work is measured."""
    time.sleep(SLEEP_S)


task = queue.task(name="make_video")(make_video)


def submit(job: Submit) -> Submitted:
    """Answer once Redis has the job on its disk."""
    return Submitted(requestId=task.delay(job.model_dump()).id)


api = FastAPI()
# Not a coroutine: Celery's client blocks, so FastAPI calls this in a thread.
api.add_api_route("/video/submit", submit, methods=["POST"], status_code=202)
