"""Finished videos in a real browser: their colours, and the actions on them."""

import secrets
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from playwright.async_api import Browser, Locator, expect

from broker.store.folder import FolderStore
from broker.store.store import Store
from broker.wire.errors import ResultWarning
from broker.wire.job import JobSpec, JobState
from broker.wire.job_view import JobView, Lease
from broker.wire.model_profile import ModelProfile
from http_front.access.keys import ApiKey, hash_key, make_key, write_keys
from ranks.media.video_writer import VideoWriter
from tests.browser.visit import PROMPT, Visit, open_visit
from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import Served, serve

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

LARGEST_COLOUR_DIFFERENCE = 8
"""Of 255, in any channel of any patch of the chart."""
# The usual chart of 24 patches: natural colours, primaries and greys. Without a GPU, Chromium shows
# stronger blues up to 13 too dark whatever the file says: it multiplies Cb by 2, BT.709 by 2.11.
CHART = (
    *("#735244", "#c29682", "#627a9d", "#576c43", "#8580b1", "#67bdaa"),
    *("#d67e2c", "#505ba6", "#c15a63", "#5e3c6c", "#9dbc40", "#e0a32e"),
    *("#383d96", "#469449", "#af363c", "#e7c71f", "#bb5695", "#0885a1"),
    *("#ffffff", "#c8c8c8", "#a0a0a0", "#7a7a79", "#555555", "#000000"),
)
COLUMNS, PATCH_PX = 6, 96
WIDTH_PX, HEIGHT_PX = COLUMNS * PATCH_PX, len(CHART) // COLUMNS * PATCH_PX

READ_PATCHES = """
(video, [columns, rows, side]) => {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0);
  const patches = [];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const at = [(column + 0.5) * side, (row + 0.5) * side];
      patches.push([...context.getImageData(...at, 1, 1).data.slice(0, 3)]);
    }
  }
  return patches;
}
"""


def draw_chart() -> Image.Image:
    chart = Image.new("RGB", (WIDTH_PX, HEIGHT_PX))
    for number, colour in enumerate(CHART):
        row, column = divmod(number, COLUMNS)
        left, top = column * PATCH_PX, row * PATCH_PX
        ImageDraw.Draw(chart).rectangle((left, top, left + PATCH_PX, top + PATCH_PX), colour)
    return chart


def write_video(store: Store, job_id: str, spec: JobSpec) -> None:
    """Write a video of the chart exactly as rank 0 does."""
    pixels = torch.from_numpy(np.array(draw_chart())).permute(2, 0, 1) / 127.5 - 1.0
    ended = threading.Event()
    failures: list[Exception] = []

    def note_end(failure: Exception | None, _: ResultWarning | None) -> None:
        failures.extend([failure] if failure else [])
        ended.set()

    lease = Lease(group="g0", epoch=1, job_id=job_id, attempt=1)
    writer = VideoWriter(
        lease,
        spec,
        ModelProfile(),
        Path("no image"),
        store,
        lambda: False,
        lambda _: None,
        note_end,
    )
    writer.add(pixels[None, :, None].expand(1, 3, spec.num_frames, HEIGHT_PX, WIDTH_PX))
    writer.finish()
    assert ended.wait(30)
    assert not failures


def finish_job(broker: ScriptedBroker, front: Served) -> str:
    """Add a successful job with a video; return its id."""
    job_id = secrets.token_hex(16)
    spec = JobSpec(prompt=PROMPT, image_size=f"{WIDTH_PX}*{HEIGHT_PX}", num_frames=24, seed=7)
    write_video(FolderStore(Path(front.config.store)), job_id, spec)
    view = JobView(
        job_id=job_id,
        seq=1,
        state=JobState.SUCCEED,
        progress=1.0,
        created_at=time.time(),
        updated_at=time.time(),
        video=f"{job_id}.mp4",
    )
    broker.history[job_id], broker.specs[job_id] = [view], spec
    return job_id


async def colour_difference(card: Locator) -> tuple[int, str]:
    """Return the largest difference, and the colour where it occurs."""
    rows = len(CHART) // COLUMNS
    video = card.locator("video")
    shown = await video.evaluate(READ_PATCHES, [COLUMNS, rows, PATCH_PX])
    chart = draw_chart()
    middle = PATCH_PX // 2
    wanted = [
        chart.getpixel((column * PATCH_PX + middle, row * PATCH_PX + middle))
        for row in range(rows)
        for column in range(COLUMNS)
    ]
    differences = np.abs(np.array(shown) - np.array(wanted)).max(axis=1)
    worst = int(differences.argmax())
    return int(differences[worst]), f"{CHART[worst]} is shown as {shown[worst]}"


async def test_a_played_video_has_its_original_colours(
    visit: Visit, front: Served, broker: ScriptedBroker
) -> None:
    finish_job(broker, front)
    await visit.reload()
    card = visit.cards.first
    await visit.play(card)
    difference, where = await colour_difference(card)
    assert difference <= LARGEST_COLOUR_DIFFERENCE, where
    await visit.keep("chart")


async def test_a_finished_job_shows_its_poster_and_is_downloaded(
    visit: Visit, front: Served, broker: ScriptedBroker, tmp_path: Path
) -> None:
    job_id = finish_job(broker, front)
    await visit.reload()
    card = visit.cards.first
    await expect(card.locator("img")).to_have_attribute("src", f"videos/{job_id}.webp")
    async with visit.page.expect_download() as started:
        await card.get_by_role("button", name="Download").click()
    download = await started.value
    assert download.suggested_filename == "A small boat drifts over a calm bay (seed 7).mp4"
    await download.save_as(tmp_path / "saved.mp4")
    original = front.videos / f"{job_id}.mp4"
    assert (tmp_path / "saved.mp4").read_bytes() == original.read_bytes()


async def test_with_api_keys_the_page_asks_for_one_and_then_works_as_usual(
    chromium: Browser, broker: ScriptedBroker, tmp_path: Path
) -> None:
    text, keys = make_key(), tmp_path / "keys.json"
    write_keys(keys, [ApiKey(name="alice", sha256=hash_key(text))])
    async with (
        serve(tmp_path, broker.addresses, api_keys=str(keys)) as front,
        open_visit(chromium, front.url) as visit,
    ):
        finish_job(broker, front)
        dialog = visit.page.get_by_role("dialog")
        await dialog.get_by_label("API key").last.fill(text)
        await visit.keep("api-key")
        await visit.page.keyboard.press("Enter")
        await visit.cards.first.wait_for()
        await visit.play(visit.cards.first)
        card = await visit.submit()
        job_id = await card.get_attribute("data-job")
        assert job_id is not None
        await broker.change(job_id, queue_position=4)
        await expect(card.locator(".status")).to_contain_text("number 4")
        await visit.reload()
        await expect(visit.cards).to_have_count(2)


async def test_the_page_asks_once_for_a_key_and_reports_a_wrong_one(
    chromium: Browser, broker: ScriptedBroker, tmp_path: Path
) -> None:
    text, keys = make_key(), tmp_path / "keys.json"
    write_keys(keys, [ApiKey(name="alice", sha256=hash_key(text))])
    async with (
        serve(tmp_path, broker.addresses, api_keys=str(keys)) as front,
        open_visit(chromium, front.url) as visit,
    ):
        page, dialog = visit.page, visit.page.get_by_role("dialog")
        await page.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
        async with page.expect_response(lambda answer: "/video/list" in answer.url):
            pass  # the page asks again on its own, and is refused
        await expect(page.locator("#server")).to_have_text("An API key is needed")
        await expect(dialog).to_be_hidden()
        await page.click("#key-button")
        await page.fill("#key", "wan_wrong")
        await page.keyboard.press("Enter")
        await expect(dialog).to_contain_text("The server does not know this key.")
        await page.fill("#key", text)
        await page.keyboard.press("Enter")
        await expect(page.locator("#server")).to_have_text("Ready")
        await page.click("#key-button")
        await page.keyboard.press("Escape")
        await visit.reload()
        await expect(page.locator("#server")).to_have_text("Ready")
        await expect(dialog).to_be_hidden()
