"""Whether files can be written to the store, read there, listed, and removed again."""

import contextlib
import tempfile
from collections.abc import Iterator

from broker.store.store import PARTIAL, VIDEOS, Move, Store, StoreError
from launcher.preflight import StartError, store_at


@contextlib.contextmanager
def probing(place: str, name: str) -> Iterator[None]:
    """Hold a small file where videos are made.

    Raises:
        StartError: If it cannot be written, read, listed or removed.
    """
    with tempfile.TemporaryDirectory(prefix="wan-probe-") as work_dir:
        store = store_at(place, work_dir)
        probe = store.partial(VIDEOS) / name
        try:
            with _stored(store, name):
                yield
        except StoreError as error:
            raise StartError(
                f"--store {place}: {error}; see AWS_ENDPOINT_URL, AWS_REGION and the credentials, "
                "and what the bucket lets them do"
            ) from error
        except OSError as error:
            raise StartError(
                f"--store {place}: {probe.parent}: {error.strerror}; name the path at which this "
                "machine sees the folder of files of the server that it joins"
            ) from error


@contextlib.contextmanager
def _stored(store: Store, name: str) -> Iterator[None]:
    probe, stored = store.partial(VIDEOS) / name, f"{PARTIAL}/{name}"
    probe.touch(0o600, exist_ok=False)
    try:
        store.put([Move(probe, stored)])
        store.fetch(stored)
        store.names(PARTIAL)
        yield
    finally:
        store.delete([stored])
