"""Requests from pages of other sites, and the hosts that images may come from."""

from pathlib import Path

import msgspec
import pytest

from broker.wire.errors import ErrorCode
from http_front.errors import FrontError
from http_front.images.fetch import ImageSource
from http_front.images.spool import open_spool
from tests.http_front.images.image_server import ImageServer, Names, http_answer
from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import Served, serve
from tests.http_front.vectors import GOOD_PICTURE, VALID_BODY

FRIEND = "https://friend.example"


async def headers_for(front: Served, method: str, origin: str, **more: str) -> tuple[int, object]:
    async with front.session.request(
        method, front.url + "/live", headers={"Origin": origin, **more}
    ) as response:
        return response.status, response.headers.get("Access-Control-Allow-Origin")


async def test_no_other_site_may_use_the_server_by_default(front: Served) -> None:
    assert await headers_for(front, "GET", FRIEND) == (403, None)
    ask = {"Access-Control-Request-Method": "POST"}
    assert await headers_for(front, "OPTIONS", FRIEND, **ask) == (403, None)


async def test_an_allowed_site_may_use_the_server_and_similar_sites_may_not(
    tmp_path: Path, broker: ScriptedBroker
) -> None:
    async with serve(tmp_path, broker.addresses, cors_origins=(FRIEND,)) as front:
        assert await headers_for(front, "GET", FRIEND) == (200, FRIEND)
        ask = {"Access-Control-Request-Method": "POST"}
        assert await headers_for(front, "OPTIONS", FRIEND, **ask) == (204, FRIEND)
        for other in (f"{FRIEND}.evil.example", "http://friend.example", "null", f"{FRIEND}:1"):
            assert await headers_for(front, "GET", other) == (403, None)
        async with front.session.get(front.url + "/live") as response:
            assert "Access-Control-Allow-Credentials" not in response.headers
            assert response.headers["Vary"] == "Origin"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("[::1]:8088", 200),
        ("[0:0:0:0:0:0:0:1]:8088", 200),
        ("LOCALHOST:8088", 200),
        ("[fd00::5]:8088", 200),
        ("[fd00::7]", 200),
        ("[fd00::6]:8088", 403),
        ("[::1", 403),
    ],
)
async def test_the_host_may_be_an_ipv6_address_and_its_pages_are_own_pages(
    tmp_path: Path, broker: ScriptedBroker, host: str, status: int
) -> None:
    hosts = ("[FD00::5]", "fd00:0:0::7")
    async with serve(tmp_path, broker.addresses, allowed_hosts=hosts) as front:
        origin = f"http://{host}"
        assert (await headers_for(front, "GET", origin, Host=host))[0] == status
        assert (await headers_for(front, "GET", "http://[::1]:9", Host=host))[0] == 403


@pytest.mark.parametrize(
    ("host", "is_named"),
    [
        ("a.example", True),
        ("A.EXAMPLE", True),
        ("x.b.example", True),
        ("b.example", False),
        ("a.example.evil", False),
        ("xa.example", False),
        ("a.example.", False),
    ],
)
async def test_images_come_only_from_allowed_hosts(
    tmp_path: Path, host: str, is_named: bool
) -> None:
    source = ImageSource(hosts=["a.example", ".b.example"], resolver=Names())
    with open_spool(tmp_path) as spool, pytest.raises(FrontError) as refused:
        await source.fetch(f"https://{host}/x.png", spool)
    # An allowed host passes this check; the fetch then fails because the name does not resolve.
    assert ("names a host" in refused.value.message) != is_named


@pytest.mark.parametrize(
    ("is_told", "code"),
    [(True, ErrorCode.IMAGE_URL_FORBIDDEN), (False, ErrorCode.IMAGE_UNAVAILABLE)],
)
async def test_only_an_administrator_is_told_that_a_name_is_not_public(
    tmp_path: Path, is_told: bool, code: ErrorCode
) -> None:
    names = Names()
    names.answers["intranet.example"] = [("10.0.0.1", 80)]
    source = ImageSource(resolver=names)
    with open_spool(tmp_path) as spool, pytest.raises(FrontError) as refused:
        await source.fetch("http://intranet.example/", spool, tells_private=is_told)
    assert refused.value.code is code


async def test_an_operator_may_allow_private_addresses_and_every_port(
    tmp_path: Path, broker: ScriptedBroker
) -> None:
    async with (
        serve(tmp_path, broker.addresses, allow_private_images=True) as trusting,
        ImageServer().listen("127.0.0.1") as images,
    ):
        images.answer = http_answer(GOOD_PICTURE)
        url = f"http://127.0.0.1:{images.port}/cat.png"
        body = msgspec.json.decode(VALID_BODY) | {"image_url": url}
        assert (await trusting.post("/video/submit", body))[0] == 202
        body["image_url"] = f"http://user@127.0.0.1:{images.port}/"
        assert (await trusting.post("/video/submit", body))[0] == 422


async def test_a_page_behind_a_proxy_that_rewrites_the_host_may_use_the_server(
    tmp_path: Path, broker: ScriptedBroker
) -> None:
    hosts = ("wan.example",)
    async with serve(tmp_path, broker.addresses, allowed_hosts=hosts) as front:
        for origin in ("https://wan.example", "http://WAN.example:8443"):
            assert (await headers_for(front, "GET", origin))[0] == 200
        for origin in ("https://wan.example.evil", "ftp://wan.example", "https://wan.example@evil"):
            assert (await headers_for(front, "GET", origin))[0] == 403


async def test_a_refused_page_is_told_both_names_and_the_option(front: Served) -> None:
    own = front.url.split("//")[1]
    headers = {"Origin": "https://wan.example"}
    async with front.session.get(f"{front.url}/live", headers=headers) as response:
        message = (await response.json())["error"]["message"]
    for part in ('"https://wan.example"', f'"{own}"', "--allowed-hosts", "--cors-origins"):
        assert part in message
    async with front.session.get(f"{front.url}/live", headers={"Host": "wan.example"}) as response:
        message = (await response.json())["error"]["message"]
    assert '"wan.example"' in message
    assert "--allowed-hosts" in message
