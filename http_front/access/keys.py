"""The API keys: who may use the server and how much of it, and the file that says so."""

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
    """Raised when a file of keys cannot be read, or a change of it makes no sense."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of the server one key may use."""

    submits_per_minute: Annotated[int, Meta(ge=1, description="Jobs it may submit.")] = 10
    requests_per_second: Annotated[int, Meta(ge=1, description="Other requests.")] = 10
    queue_share: Annotated[int, Meta(ge=1, description="Its jobs that may wait.")] = 10
    websockets: Annotated[int, Meta(ge=1, description="Its WebSockets that may be open.")] = 8


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key, as the file holds it: the key itself is nowhere."""

    name: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9._-]{1,64}\Z")]
    """Whose jobs are the key's; also in log lines."""
    sha256: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    """A key is 32 random bytes, so a plain hash of it cannot be turned back."""
    admin: bool = False
    """Whether it may use `/admin/*`."""
    limits: Limits = Limits()


class _KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: list[ApiKey]

    def __post_init__(self) -> None:
        names = [key.name for key in self.keys]
        if len(set(names)) < len(names):
            raise ValueError("two keys have one name")


class KeyRing:
    """The keys that are good now: a changed file is read again, a broken one changes nothing.

    Raises:
        KeyFileError: If the file cannot be read at the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = _stamp(path)
        self._keys = read_keys(path)

    def find(self, text: str) -> ApiKey | None:
        """Return the key that a client has shown; how long it takes tells nothing about any key."""
        self._refresh()
        shown = hash_key(text)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, shown):
                found = key
        return found

    def has(self, key: ApiKey) -> bool:
        """Return whether a key that was found is still good, and still the same name's."""
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
            logger.error("the keys stay as they were: %s", error)
        else:
            logger.info("read %d keys from %s", len(self._keys), self._path)


def make_key() -> str:
    """Return a new key, which nobody can guess."""
    return f"wan_{secrets.token_urlsafe(_KEY_BYTES)}"


def hash_key(text: str) -> str:
    """Return what the file holds of a key."""
    # A header may hold bytes that are no text; they make a hash that no key has.
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def read_keys(path: Path) -> list[ApiKey]:
    """Return the keys of a file.

    Raises:
        KeyFileError: If it is not there, or holds something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=_KeyFile).keys
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise KeyFileError(f"{path} is no file of API keys: {error}") from error


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Keep other writers of a file of keys waiting: each writes what it has read, and one more.

    Raises:
        KeyFileError: If there is no such folder, or it is not this user's.
    """
    lock = path.with_name(f"{path.name}.lock")  # the file itself is another after each change
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
    """Put other keys in the file's place, all at once; only this user may read it."""
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
    """Return what changes whenever the file does; None while there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
