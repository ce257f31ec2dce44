"""Makes the callbacks that the broker hands over; what is not heard comes again from there."""

import asyncio
import logging
import time
from contextlib import suppress

import aiohttp

from broker.process.log import current_job
from broker.wire.protocol import Callback, CallbackTaken, EndCallback, TakeCallback
from http_front.broker_client import BrokerClient
from http_front.errors import FrontError
from http_front.images.guarded_http import GuardedHttp, UrlError
from http_front.webhooks import signing as webhooks

logger = logging.getLogger(__name__)

ASK_EVERY_S = 1.0
CALL_LIMIT_S = 10.0
MAX_CALLS = 8
_GONE = 410


class CallbackSender:
    """Calls back until it is closed.

    Args:
        broker: Has the callbacks.
        outside: Decides what may be called.
        key: Of the server, for the signatures.
    """

    def __init__(
        self, broker: BrokerClient, outside: GuardedHttp, key: webhooks.WebhookKey
    ) -> None:
        self._broker = broker
        self._outside = outside
        self._key = key
        self._calls: set[asyncio.Task[None]] = set()
        self._asker = asyncio.create_task(self._ask(), name="callbacks")

    async def secret(self, owner: str | None) -> str:
        """Return what an owner's receivers check signatures with.

        Raises:
            FrontError: If the store that has the key cannot be reached.
        """
        return webhooks.show_secret(webhooks.make_secret(await self._key.get(), owner))

    async def close(self) -> None:
        """End all calls; those not answered yet are made again by whoever asks next."""
        tasks = [self._asker, *self._calls]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _ask(self) -> None:
        while True:
            callback = None
            with suppress(FrontError):  # the broker is away, or its disk is full
                if len(self._calls) < MAX_CALLS:
                    reply = await self._broker.ask(TakeCallback())
                    assert isinstance(reply, CallbackTaken)
                    callback = reply.callback
            if callback is None:
                await asyncio.sleep(ASK_EVERY_S)
                continue
            call = asyncio.create_task(self._call(callback))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _call(self, callback: Callback) -> None:
        current_job.set(callback.job_id)  # of this task alone
        try:
            async with asyncio.timeout(CALL_LIMIT_S):
                status = await self._post(callback)
        except (aiohttp.ClientError, OSError, UrlError, FrontError) as error:
            logger.warning("callback: %s", type(error).__name__)
            return
        if not (200 <= status < 300 or status == _GONE):
            logger.warning("callback: status %d", status)
            return
        with suppress(FrontError):  # it is made once more, with the same id
            await self._broker.ask(EndCallback(job_id=callback.job_id))

    async def _post(self, callback: Callback) -> int:
        url = self._outside.check(callback.url)
        body = webhooks.make_body(callback)
        secret = webhooks.make_secret(await self._key.get(), callback.owner)
        headers = webhooks.sign(secret, webhooks.event_id(callback), body, time.time())
        async with (
            self._outside.session(self._outside.dialler()) as session,
            session.post(
                url,
                data=body,
                headers={**headers, "Content-Type": "application/json"},
                allow_redirects=False,
            ) as response,
        ):
            return response.status
