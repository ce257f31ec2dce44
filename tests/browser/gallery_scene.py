"""A page of jobs in states that a test chooses, all with the same real video."""

import secrets
import shutil
import time
from typing import Any

import msgspec
from playwright.async_api import Locator, Page

from broker.store.folder import FolderStore
from broker.store.store import POSTER, SPRITES, VIDEO
from broker.wire.job import JobSpec, JobState, Stage
from broker.wire.job_view import JobView
from broker.wire.replies import HealthFound
from broker.wire.requests import DeleteJob
from tests.browser.test_videos import HEIGHT_PX, WIDTH_PX, write_video
from tests.browser.visit import PROMPT
from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import Served

NUM_FRAMES = 24
DAY_S = 86_400.0
IDLE = HealthFound(ready=True, draining=False, queued=0, running=0, groups=[])


class GalleryScene:
    """The jobs of one test; the broker and the front serve the tests of a module."""

    def __init__(self, broker: ScriptedBroker, front: Served) -> None:
        self.broker = broker
        self.front = front
        self.sample = secrets.token_hex(16)
        self._now_s = time.time()
        write_video(FolderStore(front.videos.parent), self.sample, self._spec(PROMPT, 0))

    def clear(self) -> None:
        self.broker.history.clear()
        self.broker.specs.clear()
        self.broker.asked.clear()
        self.broker.health = IDLE
        self.broker.script = lambda _request: None
        self._now_s = time.time()

    def add(
        self, state: JobState, prompt: str = PROMPT, *, age_s: float = 0.0, seed: int = 7, **of: Any
    ) -> str:
        """Add a job that was submitted so long ago; return its id."""
        job_id = secrets.token_hex(16)
        at_s = self._now_s - age_s
        self.broker.specs[job_id] = self._spec(prompt, seed)
        view = JobView(job_id=job_id, seq=1, state=state, created_at=at_s, updated_at=at_s)
        self.broker.history[job_id] = [msgspec.structs.replace(view, **of)]
        self._by_age()
        return job_id

    def finished(self, prompt: str = PROMPT, **of: Any) -> str:
        """Add a job with a video that is kept for six more days."""
        stage_s = {"queue": 5.0, "encode": 6.0, "denoise": 32.0, "decode": 4.0}
        kept: dict[str, Any] = {
            "expires_at": self._now_s + 6 * DAY_S,
            "stage_s": stage_s,
            "progress": 1.0,
        }
        job_id = self.add(JobState.SUCCEED, prompt, **(kept | of))
        view = self.broker.history[job_id][-1]
        self.broker.history[job_id] = [msgspec.structs.replace(view, video=f"{job_id}{VIDEO}")]
        for ending in (VIDEO, POSTER, SPRITES):
            source = self.front.videos / f"{self.sample}{ending}"
            shutil.copy(source, self.front.videos / f"{job_id}{ending}")
        return job_id

    def running(self, prompt: str = PROMPT, **of: Any) -> str:
        at: dict[str, Any] = {
            "stage": Stage.DENOISE,
            "step": 12,
            "num_steps": 30,
            "progress": 0.4,
            "eta_s": 90.0,
        }
        return self.add(JobState.IN_PROGRESS, prompt, **(at | of))

    @property
    def deleted(self) -> list[str]:
        """The jobs that the page has deleted."""
        return [asked.job_id for asked in self.broker.asked if isinstance(asked, DeleteJob)]

    def _by_age(self) -> None:
        """Put the jobs into the order in which a real broker lists them."""
        views = sorted(self.broker.history.items(), key=lambda item: item[1][0].created_at)
        self.broker.history.clear()
        self.broker.history.update(views)

    def _spec(self, prompt: str, seed: int) -> JobSpec:
        size = f"{WIDTH_PX}*{HEIGHT_PX}"
        return JobSpec(prompt=prompt, image_size=size, num_frames=NUM_FRAMES, seed=seed)


def card_of(page: Page, job_id: str) -> Locator:
    return page.locator(f"[data-job='{job_id}']")


async def shown(page: Page) -> list[str]:
    """The ids of the jobs that the page shows, in their order."""
    ids: list[str] = await page.locator(".card:visible").evaluate_all(
        "(cards) => cards.map((card) => card.dataset.job)"
    )
    return ids


async def stop_clock(page: Page) -> None:
    """Stop the clock of new timers; the test moves it on."""
    await page.clock.install()
    await page.clock.pause_at(time.time() + 60)
