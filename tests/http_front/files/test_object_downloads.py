"""Downloads from an object store behave as from a folder, or are links to the store."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any, Literal

import aiohttp
import pytest

from broker.store.opening import open_store
from broker.store.store import INPUTS, VIDEOS, Move, Store
from broker.wire.errors import ErrorCode
from broker.wire.replies import FrontReply, Refused
from broker.wire.requests import FrontRequest, GetJob
from http_front.access.keys import ApiKey, hash_key, write_keys
from http_front.client.client import WanClient
from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import Served, picture, serve
from tests.object_store import Fault, Site

CONTENT = bytes(range(256)) * 50_000  # more than one chunk
NAME = f"{'a' * 32}.mp4"
Downloads = Literal["relay", "redirect"]


@dataclass(frozen=True)
class Shop:
    """A front with one video."""

    front: Served
    store: Store

    @property
    def url(self) -> str:
        return f"{self.front.url}/videos/{NAME}"

    async def get(
        self, method: str = "GET", **headers: str
    ) -> tuple[int, Mapping[str, str], bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.front.session.request(
            method, self.url, headers=named, allow_redirects=False
        ) as response:
            return response.status, response.headers, await response.read()


@asynccontextmanager
async def shop(
    folder: Path, broker: ScriptedBroker, place: str, **settings: Any
) -> AsyncIterator[Shop]:
    store = open_store(place, str(folder / "work"))
    await asyncio.to_thread(fill, store)
    settings |= {"store": place, "work_dir": str(folder / "front")}
    async with serve(folder, broker.addresses, **settings) as front:
        yield Shop(front, store)


def fill(store: Store) -> None:
    store.prepare()
    made = store.partial(VIDEOS) / "made"
    made.write_bytes(CONTENT)
    store.put([Move(made, f"{VIDEOS}/{NAME}")])


@pytest.fixture(params=["folder", "objects"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "store")
    site: Site = request.getfixturevalue("site")
    return site.place


async def test_the_whole_video_is_sent(tmp_path: Path, broker: ScriptedBroker, place: str) -> None:
    async with shop(tmp_path, broker, place) as it:
        status, headers, body = await it.get()
        assert (status, body) == (200, CONTENT)
        assert headers["Content-Type"] == "video/mp4"
        assert headers["Accept-Ranges"] == "bytes"
        assert "media-src 'self'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        status, head, body = await it.get("HEAD")
        assert (status, body) == (200, b"")
        same = ("Content-Length", "Content-Type", "ETag", "Last-Modified", "Accept-Ranges")
        assert [head[name] for name in same] == [headers[name] for name in same]


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=10-19", 10, 20),
        ("bytes=0-", 0, len(CONTENT)),
        ("bytes=-7", len(CONTENT) - 7, len(CONTENT)),
        ("bytes=-99999999", 0, len(CONTENT)),
        ("bytes=12799999-99999999", len(CONTENT) - 1, len(CONTENT)),
        ("bytes=100-9000000", 100, 9_000_001),
    ],
)
async def test_a_range_is_sent(
    tmp_path: Path, broker: ScriptedBroker, place: str, wanted: str, start: int, stop: int
) -> None:
    async with shop(tmp_path, broker, place) as it:
        status, headers, body = await it.get(Range=wanted)
        assert (status, body) == (206, CONTENT[start:stop])
        assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(CONTENT)}"
        assert headers["Content-Length"] == str(stop - start)
        status, head, body = await it.get("HEAD", Range=wanted)
        assert (status, body) == (206, b"")
        assert head["Content-Range"] == headers["Content-Range"]


@pytest.mark.parametrize(
    "wanted", ["bytes=99999999-", "bytes=9-3", "bytes=-", "bytes=-0", "bytes=one"]
)
async def test_a_range_beyond_the_end_is_refused(
    tmp_path: Path, broker: ScriptedBroker, place: str, wanted: str
) -> None:
    async with shop(tmp_path, broker, place) as it:
        status, headers, _ = await it.get(Range=wanted)
        assert (status, headers["Content-Range"]) == (416, f"bytes */{len(CONTENT)}")


@pytest.mark.parametrize("wanted", ["seconds=1-2", "bytes=0-1,4-5", "10-19"])
async def test_an_unsupported_range_is_ignored(
    tmp_path: Path, broker: ScriptedBroker, place: str, wanted: str
) -> None:
    async with shop(tmp_path, broker, place) as it:
        status, _, body = await it.get(Range=wanted)
        assert (status, body) == (200, CONTENT)


async def test_conditional_requests_work(
    tmp_path: Path, broker: ScriptedBroker, place: str
) -> None:
    async with shop(tmp_path, broker, place) as it:
        _, headers, _ = await it.get("HEAD")
        etag, modified = headers["ETag"], headers["Last-Modified"]
        early, late = formatdate(1e9, usegmt=True), formatdate(4e9, usegmt=True)
        ranged = {"Range": "bytes=0-1"}
        for status, conditions in (
            (304, {"If_None_Match": etag}),
            (304, {"If_None_Match": "*"}),
            (200, {"If_None_Match": '"another"'}),
            (304, {"If_Modified_Since": late}),
            (200, {"If_Modified_Since": early}),
            (200, {"If_None_Match": '"another"', "If_Modified_Since": late}),
            (200, {"If_Match": etag}),
            (412, {"If_Match": '"another"'}),
            (412, {"If_Unmodified_Since": early}),
            (200, {"If_Unmodified_Since": late}),
            (206, ranged | {"If_Range": late}),
            (200, ranged | {"If_Range": early}),
            (206, ranged | {"If_Range": etag}),
            (200, ranged | {"If_Range": f"W/{etag}"}),
            (200, ranged | {"If_Range": '"another"'}),
        ):
            found, headers, body = await it.get(**conditions)
            assert found == status, conditions
            assert len(body) == {200: len(CONTENT), 206: 2}.get(status, 0), conditions
            if status == 304:
                assert (headers["ETag"], headers["Last-Modified"]) == (etag, modified)


async def test_a_missing_video_is_404(tmp_path: Path, broker: ScriptedBroker, place: str) -> None:
    async with shop(tmp_path, broker, place) as it:
        status, answer = await it.front.get(f"/videos/{'b' * 32}.mp4")
        assert (status, answer["error"]["code"]) == (404, "not_found")


async def test_an_upload_goes_into_the_store_and_leaves_no_local_file(
    tmp_path: Path, broker: ScriptedBroker, site: Site
) -> None:
    async with shop(tmp_path, broker, site.place) as it:
        first, second = await it.front.submit(), await it.front.submit()
        assert broker.images[first] == broker.images[second]
        assert site.names() == [f"{INPUTS}/{broker.images[first]}", f"{VIDEOS}/{NAME}"]
        work = tmp_path / "front"
        assert [path for path in work.rglob("*") if path.is_file()] == []


# --- links ---------------------------------------------------------------------------------------


async def test_a_plain_client_follows_the_link(
    tmp_path: Path, broker: ScriptedBroker, site: Site
) -> None:
    async with shop(tmp_path, broker, site.place, store_downloads="redirect") as it:
        status, headers, _ = await it.get()
        assert (status, headers["Cache-Control"]) == (307, "no-store")
        link = headers["Location"]
        assert re.search("X-Amz-Expires=600&", link)
        async with aiohttp.ClientSession() as session, session.get(link) as response:
            assert await response.read() == CONTENT
        async with WanClient(it.front.url, "a-key") as client:
            await client.download(NAME.removesuffix(".mp4"), tmp_path / "video.mp4")
        assert (tmp_path / "video.mp4").read_bytes() == CONTENT
        ranged = {"Range": "bytes=10-19"}
        async with it.front.session.get(it.url, headers=ranged) as response:
            assert (response.status, await response.read()) == (206, CONTENT[10:20])
        status, headers, _ = await it.get("HEAD")
        assert (status, headers["Content-Length"]) == (200, str(len(CONTENT)))
        status, answer = await it.front.get(f"/videos/{'b' * 32}.mp4")
        assert (status, answer["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("downloads", ["relay", "redirect"])
async def test_another_owners_video_is_not_linked(
    tmp_path: Path, broker: ScriptedBroker, site: Site, downloads: Downloads
) -> None:
    keys = tmp_path / "keys.json"
    write_keys(keys, [ApiKey(name="ann", sha256=hash_key("anns-key"))])

    def refuse(request: FrontRequest) -> FrontReply | None:
        if isinstance(request, GetJob):
            return Refused(code=ErrorCode.JOB_NOT_FOUND, message="no job has this id")
        return None

    broker.script = refuse
    settings = {"store_downloads": downloads, "api_keys": str(keys)}
    async with shop(tmp_path, broker, site.place, **settings) as it:
        status, headers, _ = await it.get()
        assert (status, "Location" in headers) == (401, False)
        status, headers, _ = await it.get(Authorization="Bearer anns-key")
        assert (status, "Location" in headers) == (404, False)


# --- an unreachable store ------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["refuses", "unavailable", "silent"])
async def test_requests_fail_with_503_while_the_store_is_unreachable(
    tmp_path: Path,
    broker: ScriptedBroker,
    site: Site,
    fault: Fault,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("broker.store.bucket.REQUEST_LIMIT_S", 1)
    async with shop(tmp_path, broker, site.place) as it:
        site.proxy.fail(fault)
        status, _, _ = await it.get()
        assert status == 503
        status, answer = await it.front.upload(picture())
        assert (status, answer["error"]["code"]) == (503, "unavailable")
        assert "cannot reach its file store" in answer["error"]["message"]
        assert await it.front.get("/live") == (200, {"status": "alive"})
        site.proxy.recover()
        status, _, body = await it.get()
        assert (status, body) == (200, CONTENT)
        await it.front.submit()


async def test_an_aborted_download_is_an_error_for_the_client(
    tmp_path: Path, broker: ScriptedBroker, site: Site
) -> None:
    """The server closes the connection, so that the client does not wait for the rest."""
    async with shop(tmp_path, broker, site.place) as it:
        async with it.front.session.get(it.url) as response:
            assert response.status == 200
            await response.content.readexactly(1000)
            site.proxy.fail("refuses")
            with pytest.raises(aiohttp.ClientPayloadError):
                async with asyncio.timeout(10):
                    await response.read()
        assert (await it.front.get("/live"))[0] == 200


async def test_two_fronts_share_the_signing_key_even_if_the_store_was_unreachable_at_start(
    tmp_path: Path, broker: ScriptedBroker, site: Site
) -> None:
    settings: dict[str, Any] = {"store": site.place, "makes_callbacks": True}
    one, two = tmp_path / "one", tmp_path / "two"
    site.proxy.fail("refuses")
    async with (
        serve(one, broker.addresses, work_dir=str(one), **settings) as first,
        serve(two, broker.addresses, work_dir=str(two), **settings) as second,
    ):
        status, _ = await first.get("/video/webhook_secret")
        assert status == 503
        site.proxy.recover()
        secrets = [await front.get("/video/webhook_secret") for front in (first, second)]
        assert secrets[0][0] == 200
        assert secrets[0] == secrets[1]
    assert site.names() == ["webhook.key"]
