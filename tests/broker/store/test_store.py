"""Both stores behave alike, and the object store raises clear errors when its connection fails."""

import logging
import os
import sys
from pathlib import Path

import pytest

from broker.store.bucket import CHUNK_BYTES, ObjectStore
from broker.store.folder import FolderStore
from broker.store.opening import open_store
from broker.store.store import (
    CHECKPOINTS,
    INPUTS,
    PARTIAL,
    VIDEOS,
    Move,
    Store,
    StoreError,
    StoreSetupError,
)
from tests.object_store import SECRET, Fault, Site

VIDEO = f"{VIDEOS}/a.mp4"
LARGE = os.urandom(2 * CHUNK_BYTES + 1)
FAULTS: list[Fault] = ["refuses", "unavailable", "silent"]


def object_store(site: Site, folder: Path) -> ObjectStore:
    store = open_store(site.place, str(folder / "work"))
    assert isinstance(store, ObjectStore)
    store.prepare()
    return store


@pytest.fixture(params=["folder", "objects"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "objects":
        return object_store(request.getfixturevalue("site"), tmp_path)
    store = open_store(str(tmp_path))
    store.prepare()
    return store


def put(store: Store, name: str, content: bytes = b"content") -> None:
    folder = store.partial(name.rpartition("/")[0])
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "source"
    source.write_bytes(content)
    store.put([Move(source, name)])


@pytest.mark.parametrize("content", [b"", b"content", LARGE], ids=["empty", "small", "large"])
def test_a_file_put_into_a_store_can_be_fetched(store: Store, content: bytes) -> None:
    put(store, VIDEO, content)
    assert store.has(VIDEO)
    assert store.fetch(VIDEO) == store.local(VIDEO)
    assert store.local(VIDEO).read_bytes() == content
    store.release(VIDEO)
    assert store.fetch(VIDEO).read_bytes() == content


def test_a_file_is_replaced_by_a_later_one(store: Store) -> None:
    put(store, VIDEO)
    put(store, VIDEO, b"later")
    assert store.fetch(VIDEO).read_bytes() == b"later"


def test_only_files_directly_in_a_folder_are_listed(store: Store) -> None:
    for name in (VIDEO, f"{VIDEOS}/b.webp", f"{PARTIAL}/c.probe", f"{INPUTS}/d.ppm"):
        put(store, name)
    assert sorted(store.names(VIDEOS)) == [VIDEO, f"{VIDEOS}/b.webp"]
    assert store.names(PARTIAL) == [f"{PARTIAL}/c.probe"]
    assert store.names(CHECKPOINTS) == []


def test_deleted_files_are_gone_and_missing_ones_are_no_error(store: Store) -> None:
    put(store, VIDEO)
    put(store, f"{VIDEOS}/b.mp4")
    for _ in range(2):
        store.delete([VIDEO, f"{VIDEOS}/never.mp4"])
        assert store.names(VIDEOS) == [f"{VIDEOS}/b.mp4"]
    store.delete([])


def test_a_secret_is_written_once(store: Store) -> None:
    assert store.secret("webhook.key", b"first") == b"first"
    assert store.secret("webhook.key", b"second") == b"first"


def test_a_check_that_raises_cancels_the_transfer(store: Store) -> None:
    class CancelledError(Exception):
        pass

    def cancel() -> None:
        raise CancelledError

    source = store.partial(CHECKPOINTS) / "source"
    source.write_bytes(LARGE)
    with pytest.raises(CancelledError):
        store.put([Move(source, f"{CHECKPOINTS}/a")], cancel)
    assert not store.has(f"{CHECKPOINTS}/a")


def test_a_file_that_is_not_in_an_object_store_cannot_be_fetched(
    site: Site, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=f"{VIDEO} is not in {site.place}"):
        object_store(site, tmp_path).fetch(VIDEO)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_connection_raises_a_store_error(
    fault: Fault, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.store.bucket.REQUEST_LIMIT_S", 1)
    store = object_store(site, tmp_path)
    site.proxy.fail(fault)
    for operation in (
        lambda: put(store, VIDEO),
        lambda: store.has(VIDEO),
        lambda: store.fetch(VIDEO),
        lambda: store.names(VIDEOS),
        lambda: store.delete([VIDEO]),
        lambda: store.secret("webhook.key", b"key"),
    ):
        with pytest.raises(StoreError) as failure:
            operation()
        assert "\n" not in str(failure.value)
        assert SECRET not in str(failure.value)
    site.proxy.recover()
    put(store, VIDEO)
    assert site.names() == [VIDEO]


@pytest.mark.parametrize("size", [CHUNK_BYTES, len(LARGE)])
def test_an_interrupted_upload_leaves_no_file(size: int, site: Site, tmp_path: Path) -> None:
    store = object_store(site, tmp_path)
    site.proxy.fail("cut")
    with pytest.raises(StoreError):
        put(store, VIDEO, LARGE[:size])
    assert site.names() == []
    site.proxy.recover()
    put(store, VIDEO, LARGE[:size])
    assert store.fetch(VIDEO).read_bytes() == LARGE[:size]


def test_a_cancelled_upload_leaves_no_parts(site: Site, tmp_path: Path) -> None:
    store = object_store(site, tmp_path)
    source = store.partial(VIDEOS) / "source"
    source.write_bytes(LARGE)
    calls = []

    def cancel_late() -> None:
        calls.append(1)
        if len(calls) == 4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        store.put([Move(source, VIDEO)], cancel_late)
    assert (site.names(), site.num_uploads()) == ([], 0)


def test_an_object_that_changes_while_it_is_read_raises_an_error(
    site: Site, tmp_path: Path
) -> None:
    """Otherwise a download could mix two versions."""
    store = object_store(site, tmp_path)
    put(store, VIDEO, b"first")
    found = store.find(VIDEO)
    assert found is not None
    put(store, VIDEO, b"other")
    with pytest.raises(StoreError, match="PreconditionFailed"):
        store.read(VIDEO, 0, 5, found.etag)


def test_a_missing_bucket_is_named_in_the_error(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = open_store("s3://missing/wan", str(tmp_path))
    with pytest.raises(StoreError, match="404 Not Found: NoSuchBucket"):
        put(store, VIDEO)
    assert SECRET not in caplog.text


@pytest.mark.parametrize("place", ["s3://", "s3://UPPER/x", "s3://a/b c", "s3://bucket/p?x=1"])
def test_a_malformed_store_url_is_refused(place: str) -> None:
    with pytest.raises(StoreSetupError, match="is not of the form s3://BUCKET/PREFIX"):
        open_store(place)


def test_a_missing_library_is_named_with_its_pip_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(StoreSetupError, match=r"pip install -e '\.\[s3\]'"):
        open_store("s3://videos/wan")
    assert isinstance(open_store("videos"), FolderStore)
