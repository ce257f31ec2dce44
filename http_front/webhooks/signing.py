"""Bodies and signatures of webhooks, by the Standard Webhooks specification."""

import hashlib
import hmac
import secrets
from base64 import b64encode

import msgspec

from broker.wire.job import JobState
from broker.wire.replies import Callback
from http_front.files.stored_files import StoredFiles

_KEY_BYTES = 32
_KEY_NAME = "webhook.key"


class WebhookKey:
    """The server's key, from which the secrets of all owners are derived.

    The key is in the store, so that all fronts sign alike. It is read or created on first use,
    because the store may be unreachable when a front starts.
    """

    def __init__(self, files: StoredFiles) -> None:
        self._files = files
        self._key: bytes | None = None

    async def get(self) -> bytes:
        """Return the key; create it if the store has none.

        Raises:
            FrontError: If the store cannot be reached.
        """
        if self._key is None:
            fresh = secrets.token_bytes(_KEY_BYTES)
            self._key = await self._files.call(lambda: self._files.store.secret(_KEY_NAME, fresh))
        return self._key


def make_secret(key: bytes, owner: str | None) -> bytes:
    """Derive the secret of one owner, which cannot sign for another owner's receivers."""
    return hmac.digest(key, f"webhook {owner or ''}".encode(), hashlib.sha256)


def encode_secret(secret: bytes) -> str:
    """Return a secret in the text form of Standard Webhooks."""
    return f"whsec_{b64encode(secret).decode()}"


def make_body(callback: Callback) -> bytes:
    """Return the JSON body for the end of a job, in the form of OpenAI's webhook events."""
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
    """Return the event id. It is the same in every try, so that receivers can drop duplicates."""
    return f"evt_{callback.job_id}"


def sign(secret: bytes, message_id: str, body: bytes, now_s: float) -> dict[str, str]:
    """Return the headers that sign a body, its id and the time."""
    timestamp = str(int(now_s))
    signed = b".".join([message_id.encode(), timestamp.encode(), body])
    signature = b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }
