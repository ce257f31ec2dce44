"""State shared by the request handlers."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from aiohttp import web

from broker.store.opening import open_store
from broker.store.store import INPUTS, Store
from broker.wire.job_view import JobView
from http_front.broker_client import BrokerClient
from http_front.config import FrontConfig
from http_front.files.stored_files import StoredFiles
from http_front.files.video_names import VideoNames
from http_front.images.decode import ImageDecoder
from http_front.images.fetch import ImageSource
from http_front.images.guarded_http import GuardedHttp
from http_front.images.known_images import KnownImages
from http_front.images.spool import prepare_folder
from http_front.live.event_feed import EventFeed
from http_front.live.preview_feed import PreviewFeed
from http_front.live.status_cache import StatusCache
from http_front.live.update_text import UpdateText
from http_front.models.known_models import KnownModels
from http_front.webhooks.callback_sender import CallbackSender
from http_front.webhooks.signing import WebhookKey


@dataclass(frozen=True, kw_only=True)
class Front:
    """The parts of the front; one object per process."""

    config: FrontConfig
    broker: BrokerClient
    feed: EventFeed
    previews: PreviewFeed
    source: ImageSource
    decoder: ImageDecoder
    images: KnownImages
    models: KnownModels
    statuses: StatusCache
    files: StoredFiles
    names: VideoNames
    partial_dir: Path
    """Folder for images that are still being received or decoded."""
    callbacks: CallbackSender | None
    """None if callbacks are off."""
    updates: UpdateText = field(default_factory=UpdateText)
    sockets: set[web.WebSocketResponse] = field(default_factory=set)
    """Open WebSockets; the front closes them properly when it stops."""
    num_watchers: Counter[str | None] = field(default_factory=Counter)
    """Number of WebSockets that each owner has open or is opening."""


FRONT = web.AppKey("front", Front)


@asynccontextmanager
async def open_front(
    config: FrontConfig,
    source: ImageSource,
    callback_http: GuardedHttp,
    on_event: Callable[[JobView], None],
) -> AsyncIterator[Front]:
    """Open the parts of the front, and close them at exit; `on_event` gets each change of a job."""
    store, partial_dir = await _prepare_store(config)
    files = StoredFiles(store)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    broker = BrokerClient(context, config.addresses.requests)
    statuses = StatusCache(time.monotonic)
    feed = EventFeed(context, config.addresses.events, broker, (on_event, statuses.update))
    previews = PreviewFeed(context, config.addresses.events)
    decoder = ImageDecoder(files)
    callbacks = None
    if config.makes_callbacks:
        callbacks = CallbackSender(broker, callback_http, WebhookKey(files))
    try:
        yield Front(
            config=config,
            broker=broker,
            feed=feed,
            previews=previews,
            source=source,
            decoder=decoder,
            images=KnownImages(),
            models=KnownModels(broker, time.monotonic),
            files=files,
            names=VideoNames(broker),
            statuses=statuses,
            partial_dir=partial_dir,
            callbacks=callbacks,
        )
    finally:
        if callbacks is not None:
            await callbacks.close()
        await feed.close()
        await previews.close()
        await broker.close()
        await decoder.close()
        files.close()
        context.term()


async def _prepare_store(config: FrontConfig) -> tuple[Store, Path]:
    store = open_store(config.store, config.work_dir)
    await asyncio.to_thread(store.prepare)
    partial_dir = store.partial(INPUTS)
    await asyncio.to_thread(prepare_folder, partial_dir)
    return store, partial_dir
