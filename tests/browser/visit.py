"""A visit to the page: a person's actions, and a record of the page's requests and errors."""

import base64
import contextlib
import io
from collections.abc import AsyncIterator
from typing import Any

from PIL import Image
from playwright.async_api import Browser, Locator, Page

from tests.running_server import ROOT, SAMPLE

SCREENSHOTS = ROOT / "build" / "screenshots"
PROMPT = "A small boat drifts over a calm bay"
LIMIT_MS = 20_000

_DROP = """
([zone, name, type, base64]) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type }));
  for (const kind of ["dragover", "drop"]) {
    const options = { dataTransfer: data, bubbles: true, cancelable: true };
    zone.dispatchEvent(new DragEvent(kind, options));
  }
}
"""

_JOBS = "[...document.querySelectorAll('.card')].map((card) => card.dataset.job)"


class Visit:
    """A page in a fresh browser context, without cookies or storage."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.foreign_requests: list[str] = []
        self.errors: list[str] = []

    async def open(self, url: str) -> None:
        """Go to the page and wait until it can be used."""
        await self.page.goto(url)
        await self.ready()

    async def reload(self) -> None:
        await self.page.reload()
        await self.ready()

    async def ready(self) -> None:
        """Wait until the page can be used."""
        await self.page.wait_for_selector("body.ready")

    async def drop(
        self, picture: bytes, name: str = "picture.png", kind: str = "image/png"
    ) -> None:
        """Drop a picture file on the page, and wait until it is shown."""
        zone = await self.page.query_selector("#picture")
        encoded = base64.b64encode(picture).decode()
        await self.page.evaluate(_DROP, [zone, name, kind, encoded])
        await self.page.wait_for_selector("#picture.filled")

    async def submit(self, prompt: str = PROMPT, **settings: str) -> Locator:
        """Submit the form with the sample picture; return the card of the job."""
        await self.drop(SAMPLE.read_bytes(), "sample.jpg", "image/jpeg")
        await self.page.fill("#prompt", prompt)
        for name, value in settings.items():
            await self.page.select_option(f"[name={name}]", value)
        before = await self.page.evaluate(_JOBS)
        await self.page.click("#submit")
        await self.page.wait_for_function(f"(before) => {_JOBS}.length > before", arg=len(before))
        (job_id,) = set(await self.page.evaluate(_JOBS)) - set(before)
        return self.page.locator(f"[data-job='{job_id}']")

    @property
    def cards(self) -> Locator:
        """The cards of all jobs on the page: what runs, what waits, what has ended."""
        return self.page.locator(".card")

    async def wait_for(self, card: Locator, state: str, limit_ms: float = LIMIT_MS) -> None:
        """Wait until a job reaches a state."""
        job_id = await card.get_attribute("data-job")
        selector = f".card[data-job='{job_id}'][data-state='{state}']"
        await self.page.wait_for_selector(selector, timeout=limit_ms)

    async def play(self, card: Locator) -> None:
        """Play the video of a job for a few frames."""
        await card.locator(".play").click()
        video = await card.locator("video").element_handle()
        await self.page.wait_for_function("(video) => video.currentTime > 0.2", arg=video)

    async def wait_for_text(self, selector: str, text: str) -> None:
        """Wait until an element that matches the selector holds a text."""
        await self.page.locator(selector, has_text=text).first.wait_for()

    async def keep(self, name: str, *, whole: bool = False) -> None:
        """Save a screenshot."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        await self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=whole)

    async def picture_of(self, selector: str) -> Image.Image:
        """Return a screenshot of an element."""
        screenshot = await self.page.locator(selector).screenshot()
        return Image.open(io.BytesIO(screenshot)).convert("RGB")


@contextlib.asynccontextmanager
async def open_visit(browser: Browser, url: str, **settings: Any) -> AsyncIterator[Visit]:
    """Open the page; check at the end that it called no other server and raised no error."""
    context = await browser.new_context(**{"locale": "en-GB"} | settings)
    page = await context.new_page()
    page.set_default_timeout(LIMIT_MS)
    visit = Visit(page)
    own = url.split("//")[1]

    def record(address: str) -> None:
        if address.startswith(("http", "ws")) and not address.split("//")[1].startswith(own):
            visit.foreign_requests.append(address)

    page.on("request", lambda request: record(request.url))
    page.on("websocket", lambda socket: record(socket.url))
    page.on("pageerror", lambda error: visit.errors.append(str(error)))
    page.on(
        "console",
        lambda line: visit.errors.append(line.text) if "Security Policy" in line.text else None,
    )
    try:
        await visit.open(url)
        yield visit
        assert not visit.foreign_requests
        assert not visit.errors
    finally:
        await context.close()


def stripes(width_px: int, height_px: int) -> Image.Image:
    """Return a picture with gradients, which show how much of each edge is cut off."""
    across = Image.linear_gradient("L").rotate(90).resize((width_px, height_px))
    down = Image.linear_gradient("L").resize((width_px, height_px))
    return Image.merge("RGB", (across, down, Image.new("L", (width_px, height_px), 128)))


def as_png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
