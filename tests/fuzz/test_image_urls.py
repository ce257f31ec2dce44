"""However a URL is spelled, the server connects only to public addresses.

The standard library's `is_private` and `is_global` are not strict enough to pass these tests.
"""

import asyncio
import ipaddress
import socket
from pathlib import Path

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given, settings
from hypothesis import strategies as st

from http_front.errors import FrontError
from http_front.images.address_guard import is_public
from http_front.images.fetch import ImageSource
from http_front.images.spool import open_spool

PRIVATE = [
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "0.0.0.0"),
    *("100.100.100.200", "192.0.0.192", "224.0.0.1", "255.255.255.255", "198.18.0.1"),
]
NAT64 = int(ipaddress.IPv6Address("64:ff9b::"))


class OneName(AbstractResolver):
    """Resolves every name to `address`."""

    def __init__(self) -> None:
        self.address = ""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        return [
            ResolveResult(
                hostname=host, host=self.address, port=port, family=family, proto=0, flags=0
            )
        ]

    async def close(self) -> None:
        """Do nothing."""


def spelled(address: str) -> list[str]:
    """Return spellings of an IPv4 address that some parser accepts."""
    number = int(ipaddress.IPv4Address(address))
    a, b, c, d = address.split(".")
    mapped = f"{number >> 16:x}:{number & 0xFFFF:x}"
    return [
        *(address, f"{address}.", str(number), hex(number), f"0{number:o}", f"{a}.{b}.{c}.0x{d}"),
        *(address.replace(".", "。"), address.replace(".", "\uff0e"), f"0{int(a):o}.{b}.{c}.{d}"),
        *(f"[::ffff:{address}]", f"[::{address}]", f"[64:ff9b::{mapped}]", f"[2002:{mapped}::]"),
        *(f"[::ffff:0:{address}]", f"[::ffff:{mapped}%25lo]", "name.example", "localhost", "[::1]"),
        *(f"{a}.{b}.{d}", f"{a}.{d}", f"user@{address}", f"example.com#@{address}"),
        *(f"{address}\\@example.com", f"example.com\\@{address}", f"{address}%00.example.com"),
    ]


def test_every_spelling_of_a_private_address_is_refused(tmp_path: Path, num_examples: int) -> None:
    names, passed = OneName(), list[str]()

    def spy(address: str) -> bool:
        if is_public(address):
            passed.append(address)
        return False  # never connect

    async def fetch(text: str) -> None:
        source = ImageSource(guard=spy, ports=None, resolver=names)
        with open_spool(tmp_path) as spool:
            await source.fetch(text, spool)

    @settings(max_examples=5 * num_examples, deadline=None, database=None, derandomize=True)
    @given(
        st.sampled_from(PRIVATE),
        st.integers(0, 100),
        st.sampled_from(
            ["http", "https", "HTTP", "http:", "ftp", "file", "gopher", "//", "\thttp"]
        ),
        st.text(max_size=4),
        st.text(max_size=10),
    )
    def try_url(address: str, which: int, scheme: str, noise: str, path: str) -> None:
        names.address = address
        ways = spelled(address)
        host = ways[which % len(ways)]
        with asyncio.Runner() as runner:
            for text in (f"{scheme}://{host}/{path}", f"{scheme}://{noise}{host}{noise}/{path}"):
                with pytest.raises(FrontError):
                    runner.run(fetch(text))
        assert not passed, (text, passed)

    try_url()


def test_no_address_that_is_not_global_is_allowed(num_examples: int) -> None:
    @settings(max_examples=5 * num_examples, deadline=None, database=None, derandomize=True)
    @given(st.ip_addresses(v=4), st.ip_addresses(v=6))
    def try_addresses(v4: ipaddress.IPv4Address, v6: ipaddress.IPv6Address) -> None:
        for address in (v4, v6):
            assert address.is_global or not is_public(str(address))
        # IPv6 addresses that embed an IPv4 address are refused, except a mapped public one.
        for outer in (int(v4) | 0xFFFF << 32, int(v4) | NAT64, int(v4) << 80 | 0x2002 << 112):
            assert not is_public(str(ipaddress.IPv6Address(outer))) or v4.is_global

    try_addresses()
