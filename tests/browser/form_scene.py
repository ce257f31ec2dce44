"""The front and the broker that the tests of the form share, and what they do in the form."""

import contextlib
import io
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.async_api import Browser

from broker.wire.errors import ErrorCode
from broker.wire.job import JobSpec
from broker.wire.replies import FrontReply, ModelsFound, Refused
from broker.wire.requests import FrontRequest, IdempotencyKey, SubmitJob
from tests.browser.visit import PROMPT, Visit, as_png, open_visit, stripes
from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import Served, serve

_DRAG = """
([kind, content]) => {
  const data = new DataTransfer();
  data.setData(kind, content);
  for (const name of ["dragover", "drop"]) {
    const options = { dataTransfer: data, bubbles: true, cancelable: true };
    document.querySelector("#picture").dispatchEvent(new DragEvent(name, options));
  }
}
"""


class FormScene:
    """A page with the form, and the jobs that it has submitted."""

    def __init__(self, broker: ScriptedBroker, front: Served, browser: Browser) -> None:
        self.broker = broker
        self.front = front
        self._browser = browser

    @contextlib.asynccontextmanager
    async def visit(self, locale: str = "en-GB", **settings: Any) -> AsyncIterator[Visit]:
        async with open_visit(self._browser, self.front.url, locale=locale, **settings) as visit:
            yield visit

    def clear(self) -> None:
        """Forget the jobs of the test before."""
        for jobs in (self.broker.history, self.broker.specs, self.broker.images):
            jobs.clear()
        self.broker.asked.clear()
        self.broker.script = lambda _request: None

    def refuse(self, code: ErrorCode, field: str | None = None) -> None:
        """Refuse every job from now on, with a message as the server writes them."""
        message = f"{field} is 2; it must match ^[0-9]$ on all ranks"
        refused = Refused(code=code, message=message, field=field, retry_after_s=7)

        def answer(request: FrontRequest) -> FrontReply | None:
            return refused if isinstance(request, SubmitJob) else None

        self.broker.script = answer

    @property
    def specs(self) -> list[JobSpec]:
        """The jobs, oldest first."""
        return list(self.broker.specs.values())

    @property
    def keys(self) -> list[IdempotencyKey | None]:
        """The keys of all submits that have reached the server."""
        return [each.idempotency_key for each in self.broker.asked if isinstance(each, SubmitJob)]

    def image(self) -> Image.Image:
        """The picture of the latest job, as the server has stored it."""
        name = next(reversed(self.broker.images.values()))
        (path,) = [path for path in self.front.stored_images() if path.name == name]
        return Image.open(io.BytesIO(path.read_bytes())).convert("RGB")


@contextlib.asynccontextmanager
async def form_scene(
    browser: Browser, folder: Path, run_dir: Path, models: ModelsFound
) -> AsyncIterator[FormScene]:
    """Serve the page, with a broker that has these models from the start."""
    async with ScriptedBroker(run_dir) as broker:
        broker.models = models
        async with serve(folder, broker.addresses, allowed_hosts=("localhost",)) as front:
            yield FormScene(broker, front, browser)


async def send(visit: Visit, number: int = 1) -> None:
    """Submit the form; wait for as many new cards."""
    before = await visit.cards.count()
    await visit.page.click("#submit")
    await visit.page.wait_for_function(
        "(number) => document.querySelectorAll('.card').length >= number", arg=before + number
    )
    await visit.page.wait_for_selector("#submit:not([aria-disabled=true])")


async def fill(visit: Visit, prompt: str = PROMPT) -> None:
    await visit.drop(as_png(stripes(160, 90)))
    await visit.page.fill("#prompt", prompt)


async def drag(visit: Visit, kind: str, content: str) -> None:
    """Drop what a browser hands over for a link or a picture of another page."""
    await visit.page.evaluate(_DRAG, [kind, content])


def pictures(folder: Path, sizes: Sequence[tuple[int, int]]) -> list[Path]:
    paths = []
    for number, size in enumerate(sizes):
        paths.append(folder / f"{number}.png")
        paths[-1].write_bytes(as_png(stripes(*size)))
    return paths
