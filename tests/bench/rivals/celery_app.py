"""Rival 2: FastAPI, Celery and Redis, the usual way to put long work behind an HTTP API.

`uvicorn tests.bench.rivals.celery_app:api` answers requests,
`celery -A tests.bench.rivals.celery_app worker` works; `REDIS_URL` says where Redis is.
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
    """Stand in for the work: only the way to it is measured."""
    time.sleep(SLEEP_S)


task = queue.task(name="make_video")(make_video)


def submit(job: Submit) -> Submitted:
    """Answer once Redis has the job on its disk."""
    return Submitted(requestId=task.delay(job.model_dump()).id)


api = FastAPI()
# Not a coroutine: Celery's client blocks, so FastAPI calls this in a thread.
api.add_api_route("/video/submit", submit, methods=["POST"], status_code=202)
