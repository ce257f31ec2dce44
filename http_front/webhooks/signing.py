"""Webhooks: what is told to a `callback_url`, signed after the Standard Webhooks specification."""

import hashlib
import hmac
import secrets
from base64 import b64encode

import msgspec

from broker.wire.job import JobState
from broker.wire.protocol import Callback
from http_front.files.stored_files import StoredFiles

_KEY_BYTES = 32
_KEY_NAME = "webhook.key"


class WebhookKey:
    """The server's key, from which all secrets are made; the first front to need it makes it.

    It is in the store, so that all fronts sign alike. It may be out of reach when they start.
    """

    def __init__(self, files: StoredFiles) -> None:
        self._files = files
        self._key: bytes | None = None

    async def get(self) -> bytes:
        """Return the key.

        Raises:
            FrontError: If the store cannot be reached.
        """
        if self._key is None:
            fresh = secrets.token_bytes(_KEY_BYTES)
            self._key = await self._files.call(lambda: self._files.store.secret(_KEY_NAME, fresh))
        return self._key


def make_secret(key: bytes, owner: str | None) -> bytes:
    """Return the secret of an owner: nobody can sign what another one's receiver accepts."""
    return hmac.digest(key, f"webhook {owner or ''}".encode(), hashlib.sha256)


def show_secret(secret: bytes) -> str:
    """Return a secret as receivers take it."""
    return f"whsec_{b64encode(secret).decode()}"


def make_body(callback: Callback) -> bytes:
    """Return the news of a job's end, in the form of OpenAI's events."""
    kind = "completed" if callback.state is JobState.SUCCEED else "failed"
    return msgspec.json.encode(
        {
            "id": event_id(callback),
            "object": "event",
            "type": f"video.{kind}",
            "created_at": int(callback.ended_at),
            "data": {"id": callback.job_id},
        }
    )


def event_id(callback: Callback) -> str:
    """Return the id of an event, the same in each try: receivers know by it what they have."""
    return f"evt_{callback.job_id}"


def sign(secret: bytes, name: str, body: bytes, now_s: float) -> dict[str, str]:
    """Return the headers that prove who sends a body, and when."""
    timestamp = str(int(now_s))
    signed = b".".join([name.encode(), timestamp.encode(), body])
    signature = b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
    return {
        "webhook-id": name,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }
