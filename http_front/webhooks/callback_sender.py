"""Sends the callbacks that the broker queues. The broker queues a failed callback again."""

import asyncio
import logging
import time
from collections import Counter
from contextlib import suppress
from urllib.parse import urlsplit

import aiohttp

from broker.process.log import current_job
from broker.wire.replies import Callback
from broker.wire.requests import EndCallback, TakeCallback
from http_front.broker_client import BrokerClient
from http_front.errors import FrontError
from http_front.images.address_guard import may_connect_to
from http_front.images.guarded_http import WEB_PORTS, GuardedHttp, UrlError
from http_front.webhooks import signing

logger = logging.getLogger(__name__)

POLL_EVERY_S = 1.0
CALL_LIMIT_S = 10.0
MAX_CALLS = 16
MAX_CALLS_OF_PARTY = MAX_CALLS // 2
_GONE = 410


class CallbackSender:
    """Takes callbacks from the broker and sends them, until it is closed.

    Args:
        broker: Queues the callbacks.
        http: Makes requests to allowed addresses only.
        key: The server's signing key.
    """

    def __init__(self, broker: BrokerClient, http: GuardedHttp, key: signing.WebhookKey) -> None:
        self._broker = broker
        self._http = http
        self._key = key
        self._calls: set[asyncio.Task[None]] = set()
        self._num_calls: Counter[str] = Counter()
        """Of each party; see `Callback`."""
        self._poller = asyncio.create_task(self._poll(), name="callbacks")

    def check(self, text: str) -> None:
        """Check a URL before its first call.

        Raises:
            UrlError: If the server may not call it. The address of a name is checked at each call.
        """
        if self._http.refuses(self._http.check(text)):
            raise UrlError("leads to an address that is not public")

    async def secret(self, owner: str | None) -> str:
        """Return the secret with which an owner's receivers verify signatures.

        Raises:
            FrontError: If the store that holds the key cannot be reached.
        """
        return signing.encode_secret(signing.make_secret(await self._key.get(), owner))

    async def close(self) -> None:
        """Cancel all calls. The broker hands unfinished callbacks to the next front that asks."""
        tasks = [self._poller, *self._calls]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _poll(self) -> None:
        while True:
            callback = None
            with suppress(FrontError):  # the broker does not reply, or its disk is full
                if len(self._calls) < MAX_CALLS:
                    reply = await self._broker.ask(TakeCallback(busy=self._busy()))
                    callback = reply.callback
            if callback is None:
                await asyncio.sleep(POLL_EVERY_S)
                continue
            self._begin(callback)

    def _busy(self) -> tuple[str, ...]:
        counts = self._num_calls.items()
        return tuple(party for party, count in counts if count >= MAX_CALLS_OF_PARTY)

    def _begin(self, callback: Callback) -> None:
        call = asyncio.create_task(self._call(callback))
        self._calls.add(call)
        self._num_calls[callback.party] += 1

        def end(call: asyncio.Task[None]) -> None:
            self._calls.discard(call)
            self._num_calls[callback.party] -= 1
            self._num_calls += Counter()  # drops what is 0

        call.add_done_callback(end)

    async def _call(self, callback: Callback) -> None:
        current_job.set(callback.job_id)  # for the log lines of this task only
        try:
            async with asyncio.timeout(CALL_LIMIT_S):
                status = await self._post(callback)
        except TimeoutError:
            return _log_failure(callback, f"no answer within {CALL_LIMIT_S:.0f} s")
        except (aiohttp.ClientError, OSError, UrlError, FrontError) as error:
            return _log_failure(callback, str(error) or "the connection failed")
        if not (200 <= status < 300 or status == _GONE):
            return _log_failure(callback, f"status {status}")
        with suppress(FrontError):  # the callback is then sent again, with the same event id
            await self._broker.ask(EndCallback(job_id=callback.job_id))

    async def _post(self, callback: Callback) -> int:
        url = self._http.check(callback.url)
        body = signing.make_body(callback)
        secret = signing.make_secret(await self._key.get(), callback.owner)
        headers = signing.sign(secret, signing.event_id(callback), body, time.time())
        async with (
            self._http.session(self._http.connector(), callback.party) as session,
            session.post(
                url,
                data=body,
                headers={**headers, "Content-Type": "application/json"},
                allow_redirects=False,
            ) as response,
        ):
            return response.status


def _log_failure(callback: Callback, cause: str) -> None:
    retry_s = callback.retry_after_s
    logger.warning(
        "callback to %s failed, attempt %d: %s; %s",
        urlsplit(callback.url).hostname,  # the rest of the URL may hold secrets
        callback.tries + 1,
        cause,
        "it was the last" if retry_s is None else f"the next is in {retry_s:.0f} s",
    )


def make_callback_http(allow_private: bool) -> GuardedHttp:
    """Return what sends callbacks, to public addresses alone or to any address and port."""
    if allow_private:
        return GuardedHttp(lambda _address: True, None, None)
    return GuardedHttp(may_connect_to, WEB_PORTS, None)
