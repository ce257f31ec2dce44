"""API keys and their limits, and the file that holds them."""

import codecs
import fcntl
import hashlib
import hmac
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

logger = logging.getLogger(__name__)

_KEY_BYTES = 32
_Stamp = tuple[int, int, int]


class KeyFileError(Exception):
    """Raised when a key file cannot be read or a change to it is not possible."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Usage limits of one key."""

    submits_per_minute: Annotated[int, Meta(ge=1, description="Job submissions per minute.")] = 10
    requests_per_second: Annotated[int, Meta(ge=1, description="Other requests per second.")] = 10
    queue_share: Annotated[int, Meta(ge=1, description="Jobs waiting in the queue.")] = 10
    websockets: Annotated[int, Meta(ge=1, description="Open WebSockets.")] = 8


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of the key file. The file holds the hash of the key, never the key itself."""

    name: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9._-]{1,64}\Z")]
    """Owner of the jobs submitted with this key; also appears in log lines."""
    sha256: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    """A key has 32 random bytes, so a plain hash cannot be reversed."""
    admin: bool = False
    """Whether the key may use `/admin/*` and `/metrics`."""
    limits: Limits = Limits()


class _KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: list[ApiKey]

    def __post_init__(self) -> None:
        names = [key.name for key in self.keys]
        if len(set(names)) < len(names):
            raise ValueError("two keys have the same name")


class KeyRing:
    """The valid keys. A changed file is read again; if it is broken, the old keys stay valid.

    Raises:
        KeyFileError: If the file cannot be read at the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = _stamp(path)
        self._keys = read_keys(path)

    def find(self, text: str) -> ApiKey | None:
        """Return the entry of a key; None if it is not valid. Takes the same time either way."""
        self._refresh()
        digest = hash_key(text)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def has(self, key: ApiKey) -> bool:
        """Return whether a key found earlier is still valid under the same name."""
        self._refresh()
        return (key.name, key.sha256) in [(other.name, other.sha256) for other in self._keys]

    def _refresh(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = read_keys(self._path)
        except KeyFileError as error:
            logger.error("keeping the previous API keys: %s", error)
        else:
            logger.info("read %d keys from %s", len(self._keys), self._path)


def make_key() -> str:
    return f"wan_{secrets.token_urlsafe(_KEY_BYTES)}"


def hash_key(text: str) -> str:
    # A header may hold bytes that are not text. Their hash matches no key.
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def read_keys(path: Path) -> list[ApiKey]:
    """Return the keys in a file.

    Raises:
        KeyFileError: If the file does not exist or is not a key file.
    """
    try:
        # Some editors write a byte order mark.
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
        return msgspec.json.decode(content, type=_KeyFile).keys
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise KeyFileError(f"{path} is not a file of API keys: {error}") from error


@contextmanager
def lock_key_file(path: Path) -> Iterator[None]:
    """Make other writers wait, so that no change is lost between reading and writing the file.

    Raises:
        KeyFileError: If the folder does not exist or is not writable.
    """
    lock = path.with_name(f"{path.name}.lock")  # each change replaces the key file itself
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise KeyFileError(f"{lock}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_keys(path: Path, keys: list[ApiKey]) -> None:
    """Replace the key file atomically. Only the current user may read the new file."""
    body = msgspec.json.format(msgspec.json.encode(_KeyFile(keys)), indent=2)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(body + b"\n")
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def _stamp(path: Path) -> _Stamp | None:
    """Return a value that changes whenever the file changes; None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
