"""Webhooks: what is told to a `callback_url`, signed after the Standard Webhooks specification."""

import hashlib
import hmac
import os
import secrets
from base64 import b64encode
from contextlib import suppress
from pathlib import Path

import msgspec

from broker.job import JobState
from broker.protocol import Callback

_KEY_BYTES = 32


def load_key(path: Path) -> bytes:
    """Return the server's key, from which all secrets are made; the first start makes it.

    The file appears only when it is whole: anybody could sign with an empty key.
    """
    with suppress(FileNotFoundError):
        return path.read_bytes()
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another front may be as quick
            path.hardlink_to(partial)
    finally:
        partial.unlink()
    return path.read_bytes()


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
