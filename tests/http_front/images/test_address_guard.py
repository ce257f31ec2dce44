import socket

import msgspec
import pytest

from http_front.images.address_guard import is_own, is_public
from tests.http_front.vectors import DATA


class Addresses(msgspec.Struct):
    refuse: list[str]
    allow: list[str]


VECTORS = msgspec.json.decode((DATA / "addresses.json").read_bytes(), type=Addresses)


@pytest.mark.parametrize("address", VECTORS.refuse)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", VECTORS.allow)
def test_a_public_address_is_allowed(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "172.16.0.1",
        "172.31.255.255",
        "100.64.0.1",
        "100.127.255.255",
        "192.88.99.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "239.255.255.255",
        "240.0.0.1",
        "::ffff:100.100.100.200",
        "::ffff:a9fe:a9fe",
        "::ffff:0:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "64:ff9b:1::1",
        "100::1",
        "100:0:0:1::1",
        "2001:2::1",
        "2001:10::1",
        "2001:20::1",
        "2001:1::1",
        "2001:30::1",
        "2001:1ff:ffff::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "1fff::1",
        "2d00::1",
        "2003:4000::1",
        "2001:db8:ffff::1",
        "2002:808:808::1",
        "2606:4700::5efe:10.0.0.1",
        "2606:4700::200:5efe:10.0.0.1",
        "3ffe::1",
        "3fff::1",
        "3fff:fff::1",
        "4000::1",
        "5f00::1",
        "fc00::1",
        "febf::1",
        "feff::1",
        "ff02::1",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "2606:4700::1111%1",
        "2606:4700::1111%",
        "[2606:4700::1111]",
        "2606:4700::1111/128",
        "02606:4700::1111",
        "8.8.8.8/32",
        "8.8.8.8 ",
        " 8.8.8.8",
        "8.8.8.8\n",
        "8.8.8.8\0",
        "08.8.8.8",
        "8.8.8.08",
        "8.8.8",
        "0x8.8.8.8",
        "0x08080808",
        "134744072",
        "\uff18.8.8.8",
        "8\u30028\u30028\u30028",
        "::ffff:08.8.8.8",
        "",
        "localhost",
        "8.8.8.8.",
    ],
)
def test_other_special_ranges_and_loose_spellings_are_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "9.255.255.255",
        "100.63.255.255",
        "126.255.255.255",
        "128.0.0.1",
        "169.253.255.255",
        "172.15.255.255",
        "192.0.1.1",
        "192.167.255.255",
        "198.17.255.255",
        "198.20.0.1",
        "223.255.255.255",
        "::FFFF:0808:0808",
        "2606:4700:0000:0000:0000:0000:0000:1111",
        "2A00:1450:4001:80B::200E",
        "2001:200::1",
        "2001:503:ba3e::2:30",
        "2001:db7::1",
        "2001:db9::1",
        "2003::1",
        "2410::1",
        "2001:67c:2e8::1",
        "2400:cb00::1",
        "2620:fe::fe",
        "2800:3f0::1",
        "2a10::1",
        "2c0f:fb50::1",
    ],
)
def test_neighbours_of_special_ranges_are_allowed(address: str) -> None:
    assert is_public(address)


def test_an_address_of_this_machine_is_recognised() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("127.0.0.1", 9))
        assert is_own(probe.getsockname()[0])
    assert is_own("::1")
    assert not is_own("8.8.8.8")
