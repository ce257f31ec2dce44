"""A store in an S3 bucket, by the library obstore (extra `s3`).

Endpoint, region and credentials come from the usual `AWS_…` variables or from the machine's role.
They are not options of the server, and no log line shows them.
"""

import importlib.util
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from broker.store.store import OBJECT_SCHEME, Move, StoreError, StoreSetupError, go_on

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Store

CONNECT_LIMIT_S = 3
REQUEST_LIMIT_S = 14
"""Two requests take less than the 30 s that the broker allows for leaving a cancelled run."""
CHUNK_BYTES = 5 << 20
"""Size of one request, the smallest that S3 allows; it must pass within `REQUEST_LIMIT_S`."""
LINK_LASTS = timedelta(minutes=10)
_PLACE = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[\w./-]*))?")
_CODE = re.compile("<Code>([A-Za-z]+)</Code>")


class StoredObject(NamedTuple):
    """Size, version and age of an object."""

    num_bytes: int
    etag: str
    modified_s: float
    """Seconds since 1970."""


class ObjectStore:
    """A prefix in a bucket, and a local folder where files are written and fetched to.

    Args:
        place: `s3://BUCKET/PREFIX`.
        work: The local folder; None where a process handles no files.

    Raises:
        StoreSetupError: If the URL is invalid, or obstore is not installed.
    """

    is_local = False

    def __init__(self, place: str, work: Path | None) -> None:
        found = _PLACE.fullmatch(place)
        if found is None:
            raise StoreSetupError(f"{place} is not of the form {OBJECT_SCHEME}BUCKET/PREFIX")
        if importlib.util.find_spec("obstore") is None:
            raise StoreSetupError(
                f"{place} needs the library obstore: pip install -e '.[s3]' in the server's folder"
            )
        self.place = place
        self._bucket, self._prefix = found["bucket"], (found["prefix"] or "").strip("/")
        self._work = work

    def prepare(self) -> None:
        # What an earlier process left there is useless.
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def partial(self, folder: str) -> Path:
        made = self._folder / "made" / folder
        made.mkdir(mode=0o700, parents=True, exist_ok=True)
        return made

    def put(self, moves: Sequence[Move], check: Callable[[], None] = go_on) -> None:
        # An object appears once all of it has arrived.
        for move in moves:
            check()
            num_bytes = move.file.stat().st_size
            if num_bytes <= CHUNK_BYTES:
                self._put(move.name, move.file.read_bytes())
            else:
                self._put(move.name, _chunks(move.file, check))
            found = self.find(move.name)
            if found is None or found.num_bytes != num_bytes:
                raise StoreError(
                    f"{move.name} was accepted, but the store does not hold its {num_bytes} bytes"
                )

    def fetch(self, name: str, check: Callable[[], None] = go_on) -> Path:
        place = self.local(name)
        if place.exists():
            return place
        found = self.find(name)
        if found is None:
            raise FileNotFoundError(f"{name} is not in {self.place}")
        partial = self.partial("fetched") / place.name
        try:
            with partial.open("wb") as file:
                for start in range(0, found.num_bytes, CHUNK_BYTES):
                    check()
                    stop = min(start + CHUNK_BYTES, found.num_bytes)
                    file.write(self.read(name, start, stop, found.etag))
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial.rename(place)
        finally:
            partial.unlink(missing_ok=True)
        return place

    def local(self, name: str) -> Path:
        return self._folder / name

    def release(self, name: str) -> None:
        self.local(name).unlink(missing_ok=True)

    def has(self, name: str) -> bool:
        return self.find(name) is not None

    def find(self, name: str) -> StoredObject | None:
        """Return size, version and age of an object; None if it does not exist.

        Raises:
            StoreError: If the store cannot be reached.
        """
        import obstore

        with _translated():
            try:
                found = obstore.head(self._client, name)
            except FileNotFoundError:
                return None
        return StoredObject(
            found["size"], (found["e_tag"] or "").strip('"'), found["last_modified"].timestamp()
        )

    def read(self, name: str, start: int, stop: int, etag: str) -> bytes:
        """Return bytes of one version of an object.

        Raises:
            StoreError: If the object has another version, or the store cannot be reached.
        """
        import obstore

        wanted: obstore.GetOptions = {"range": (start, stop), "if_match": f'"{etag}"'}
        with _translated():
            return bytes(obstore.get(self._client, name, options=wanted).bytes())

    def names(self, folder: str) -> list[str]:
        import obstore

        with _translated():
            pages = obstore.list(self._client, folder, chunk_size=1000)
            found = [meta["path"] for page in pages for meta in page]
        return [name for name in found if name.rpartition("/")[0] == folder]

    def delete(self, names: Iterable[str]) -> None:
        import obstore

        if doomed := list(names):
            # obstore removes up to a thousand with each request.
            with _translated(), suppress(FileNotFoundError):
                obstore.delete(self._client, doomed)

    def secret(self, name: str, fresh: bytes) -> bytes:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        found = self.find(name)
        if found is None:
            with _translated(), suppress(AlreadyExistsError):  # another process was faster
                obstore.put(self._client, name, fresh, mode="create")
            found = self.find(name)
        if found is None:
            raise StoreError(f"{name} was accepted, but the store does not hold it")
        return self.read(name, 0, found.num_bytes, found.etag)

    def sign(self, name: str) -> str:
        """Return a URL that lets anyone read an object for ten minutes.

        Raises:
            StoreError: If there are no credentials to sign it with.
        """
        import obstore

        with _translated():
            return obstore.sign(self._client, "GET", name, LINK_LASTS)

    def _put(self, name: str, content: "bytes | Iterator[bytes]") -> None:
        import obstore

        with _translated():
            obstore.put(self._client, name, content, chunk_size=CHUNK_BYTES, max_concurrency=2)

    @property
    def _folder(self) -> Path:
        assert self._work is not None, "this process has no local folder for files"
        return self._work

    @cached_property
    def _client(self) -> "S3Store":
        # Created when first used, since its threads do not survive a fork.
        from obstore.store import S3Store

        options: ClientConfig = {
            "connect_timeout": timedelta(seconds=CONNECT_LIMIT_S),
            "timeout": timedelta(seconds=REQUEST_LIMIT_S),
            # An endpoint without TLS is named on purpose: a server of the operator's network.
            "allow_http": os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"),
        }
        retries: RetryConfig = {
            "max_retries": 1,
            "retry_timeout": timedelta(seconds=CONNECT_LIMIT_S),
        }
        return S3Store(
            self._bucket,
            prefix=self._prefix or None,
            client_options=options,
            retry_config=retries,
        )


def _chunks(path: Path, check: Callable[[], None]) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            check()
            yield chunk


@contextmanager
def _translated() -> Iterator[None]:
    """Raise obstore's errors as ours, in one line and without the reply, which may hold a key."""
    try:
        yield
    except Exception as error:
        is_obstore = type(error).__module__.startswith("obstore")
        if not (is_obstore or isinstance(error, FileNotFoundError)):
            raise  # from a check, or a bug
        text = str(error)
        line = text.partition("\n")[0].partition("<")[0].strip(" :")
        code = _CODE.search(text)
        raise StoreError(line if code is None else f"{line}: {code[1]}") from None
