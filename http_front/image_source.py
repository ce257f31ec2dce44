"""Fetch an image from a URL that a stranger chose, without becoming their way into a network.

Every rule is checked on what is really dialled: the socket factory sees each address after name
resolution, and literals, too, which never pass a resolver.
"""

import asyncio
import base64
import binascii
import re
import socket
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from broker.protocol import ErrorCode
from http_front.address_guard import may_be_dialled
from http_front.errors import FrontError
from http_front.spool import MAX_IMAGE_BYTES, Spool, image_too_large

TOTAL_LIMIT_S = 20.0
CONNECT_LIMIT_S = 5.0
READ_LIMIT_S = 5.0
MAX_REDIRECTS = 3
MAX_URL_CHARS = 2048
MAX_FETCHES = 8
WEB_PORTS = frozenset({80, 443})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK_BYTES = 1 << 16
_FIELD = "image_url"

# Blanks, control characters, line separators, direction marks, backslash: parsers disagree on them.
_BAD_CHARS = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\\]")
_DATA_URL = re.compile(r"data:(?:image/[a-z+.-]+)?;base64,", re.IGNORECASE)

Guard = Callable[[str], bool]


class ImageSource:
    """Fetches images.

    Args:
        guard: Decides on each address about to be dialled.
        ports: Those that a URL may name; None is all.
        resolver: Turns names into addresses; None is the system's.
        total_limit_s: How long a fetch may take, redirects included.
        hosts: Those that a URL may name, `.example.com` for all below it; empty is any.
    """

    def __init__(
        self,
        *,
        guard: Guard = may_be_dialled,
        ports: frozenset[int] | None = WEB_PORTS,
        resolver: AbstractResolver | None = None,
        total_limit_s: float = TOTAL_LIMIT_S,
        hosts: Sequence[str] = (),
    ) -> None:
        self._guard = guard
        self._ports = ports
        self._resolver = resolver
        self._total_limit_s = total_limit_s
        self._hosts = [host.lower() for host in hosts]
        self._slots = asyncio.Semaphore(MAX_FETCHES)

    async def fetch(self, text: str, spool: Spool) -> None:
        """Write what is at the URL to the spool.

        Raises:
            FrontError: If the URL is not allowed, or its server does not deliver in time and size.
        """
        if _DATA_URL.match(text):
            spool.write(_decode_data_url(text))
            return
        url = self._checked(text)
        async with self._slots:
            try:
                async with asyncio.timeout(self._total_limit_s):
                    await self._follow(url, spool)
            except TimeoutError as error:
                raise _unavailable("did not deliver the image in time") from error

    async def _follow(self, url: URL, spool: Spool) -> None:
        for _ in range(MAX_REDIRECTS + 1):
            location = await self._get(url, spool)
            if location is None:
                return
            url = self._redirected(url, location)
        raise _unavailable(f"redirected more than {MAX_REDIRECTS} times")

    async def _get(self, url: URL, spool: Spool) -> str | None:
        """Read the answer of one server; return where it redirects to, if it does."""
        dialler = _Dialler(self._guard)
        try:
            async with (
                _new_session(dialler, self._resolver) as session,
                session.get(url, allow_redirects=False) as response,
            ):
                if response.status in _REDIRECTS:
                    return response.headers.get("Location", "")
                await _read(response, spool)
                return None
        except (aiohttp.ClientError, ValueError, OSError) as error:
            if dialler.has_refused:
                raise _forbidden("leads to an address that is not public") from error
            if isinstance(error, TimeoutError):
                raise
            raise _unavailable("could not be reached or broke off") from error

    def _checked(self, text: str) -> URL:
        """Return the URL if its text keeps to every rule that needs no connection."""
        if len(text) > MAX_URL_CHARS:
            raise _forbidden(f"has {len(text)} characters; at most {MAX_URL_CHARS} are allowed")
        if _BAD_CHARS.search(text):
            raise _forbidden("holds a blank, a control character, a direction mark or a backslash")
        try:
            url = URL(text)
            host, port = url.host, url.port
        except ValueError as error:
            raise _forbidden("is not a valid URL") from error
        if url.scheme not in ("http", "https") or not host:
            raise _forbidden("must be an http or https URL with a host")
        if url.user is not None or url.password is not None or "@" in url.authority:
            raise _forbidden("must not hold a user name or a password")
        if self._ports is not None and port not in self._ports:
            raise _forbidden(f"names port {port}; only 80 and 443 are allowed")
        if self._hosts and not any(_is_at(host, allowed) for allowed in self._hosts):
            raise _forbidden(f"names a host that is not one of {', '.join(self._hosts)}")
        return url

    def _redirected(self, url: URL, location: str) -> URL:
        if not location or _BAD_CHARS.search(location):
            raise _unavailable("redirected to nowhere")
        try:
            target = url.join(URL(location))
        except ValueError as error:
            raise _unavailable("redirected to an invalid URL") from error
        if (url.scheme, target.scheme) == ("https", "http"):
            raise _forbidden("was redirected from https to http")
        return self._checked(str(target))


def make_source(allow_private: bool, hosts: Sequence[str]) -> ImageSource:
    """Return the source that an operator has chosen.

    Args:
        allow_private: Whether any address and any port may be dialled.
        hosts: As for `ImageSource`.
    """
    if allow_private:
        return ImageSource(guard=lambda _address: True, ports=None, hosts=hosts)
    return ImageSource(hosts=hosts)


def _is_at(host: str, allowed: str) -> bool:
    return host.endswith(allowed) if allowed.startswith(".") else host == allowed


class _Dialler:
    """Makes the socket for each address about to be dialled, or refuses to."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.has_refused = False

    def __call__(self, address: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, endpoint = address
        if not self._guard(endpoint[0]):
            self.has_refused = True
            raise OSError("this address may not be dialled")
        return socket.socket(family, kind, protocol)


def _new_session(dialler: _Dialler, resolver: AbstractResolver | None) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            socket_factory=dialler, resolver=resolver, use_dns_cache=False, force_close=True
        ),
        connector_owner=True,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        headers={"Accept-Encoding": "identity", "User-Agent": "wan-ranks", "Accept": "image/*"},
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_LIMIT_S, sock_read=READ_LIMIT_S
        ),
    )


async def _read(response: aiohttp.ClientResponse, spool: Spool) -> None:
    if response.status != 200:
        raise _unavailable(f"answered with status {response.status}")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _unavailable("answered with a compressed body")
    if (response.content_length or 0) > MAX_IMAGE_BYTES:
        raise image_too_large()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        spool.write(chunk)


def _decode_data_url(text: str) -> bytes:
    try:
        return base64.b64decode(text.partition(",")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise _forbidden("is a data URL whose base64 is not valid") from error


def _forbidden(rule: str) -> FrontError:
    return FrontError(ErrorCode.IMAGE_URL_FORBIDDEN, f"image_url {rule}", _FIELD)


def _unavailable(event: str) -> FrontError:
    return FrontError(
        ErrorCode.IMAGE_UNAVAILABLE, f"the server of image_url {event}; no image was read", _FIELD
    )
