"""Fetches an image from a client's URL."""

import asyncio
import re
import zlib
from collections.abc import AsyncIterator, Sequence

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from broker.wire.errors import ErrorCode
from http_front.access.fair_slots import FairSlots
from http_front.errors import FrontError
from http_front.images.address_guard import may_connect_to
from http_front.images.data_url import decode_data_url, is_data_url, looks_like_bare_base64
from http_front.images.guarded_http import (
    BAD_CHARS,
    MAX_URL_CHARS,
    WEB_PORTS,
    Guard,
    GuardedHttp,
    UrlError,
)
from http_front.images.spool import MAX_IMAGE_BYTES, Spool, image_too_large

TOTAL_LIMIT_S = 20.0
MAX_REDIRECTS = 3
MAX_FETCHES = 16
MAX_LOCATION_CHARS = 8190
"""A presigned URL, to which object stores redirect, is longer than the URLs that people write."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK_BYTES = 1 << 16
# Named one by one, since some hosts answer `image/*` with AVIF.
_HEADERS = {"Accept": "image/jpeg, image/png, image/webp, */*;q=0.5"}
_COMPRESSED = frozenset({"gzip", "x-gzip", "deflate"})

_FILE_NAME = re.compile(r"[^:?#]*\.(jpe?g|png|webp|gif|bmp|avif|heic)", re.IGNORECASE)


class _FetchError(Exception):
    """Raised when an image cannot be had from its URL; what it says follows the URL's field."""

    def __init__(self, code: ErrorCode, what: str) -> None:
        super().__init__(what)
        self.code = code
        self._what = what

    def message(self, field: str) -> str:
        is_of_server = self.code is ErrorCode.IMAGE_UNAVAILABLE
        return f"{'the server of ' if is_of_server else ''}{field} {self._what}"


class ImageSource:
    """Fetches images.

    Args:
        guard: Returns whether the server may connect to an address.
        ports: Ports allowed in URLs; None allows all.
        resolver: Resolves host names; None uses the system's resolver.
        total_limit_s: Time limit for a fetch, redirects included.
        hosts: Hosts allowed in URLs; `.example.com` allows all hosts below it; empty allows any.
    """

    def __init__(
        self,
        *,
        guard: Guard = may_connect_to,
        ports: frozenset[int] | None = WEB_PORTS,
        resolver: AbstractResolver | None = None,
        total_limit_s: float = TOTAL_LIMIT_S,
        hosts: Sequence[str] = (),
    ) -> None:
        self._http = GuardedHttp(guard, ports, resolver)
        self._total_limit_s = total_limit_s
        self._hosts = [host.lower() for host in hosts]
        self._slots = FairSlots(MAX_FETCHES)

    async def fetch(
        self, text: str, spool: Spool, owner: str | None = None, *, tells_private: bool = False
    ) -> None:
        """Write the image at a URL to the spool.

        Args:
            text: The URL.
            spool: Receives the image; its field with `_url` is named in errors.
            owner: Waits for other fetches of the same owner, and takes turns with others.
            tells_private: Whether the error may tell that a host name has an address that is not
                public. A stranger could ask for the names of an internal network.

        Raises:
            FrontError: If the URL is not allowed, its server fails or is too slow, or the image is
                too large.
        """
        field = f"{spool.field}_url"
        if is_data_url(text):
            decode_data_url(text, field, spool)
            return
        try:
            _refuse_other_than_urls(text)
            await self._fetch_from_server(self._check(text), spool, owner, tells_private)
        except _FetchError as error:
            raise FrontError(error.code, error.message(field), field) from error

    async def _fetch_from_server(
        self, url: URL, spool: Spool, owner: str | None, tells_private: bool
    ) -> None:
        async with self._slots.slot(owner):
            try:
                async with asyncio.timeout(self._total_limit_s):
                    await self._follow(url, spool, owner, tells_private)
            except TimeoutError as error:
                raise _unavailable(
                    f"did not deliver the image within {self._total_limit_s:g} s"
                ) from error

    async def _follow(self, url: URL, spool: Spool, owner: str | None, tells_private: bool) -> None:
        for _ in range(MAX_REDIRECTS + 1):
            location = await self._get(url, spool, owner, tells_private)
            if location is None:
                return
            url = self._redirect_target(url, location)
        raise _unavailable(f"redirected more than {MAX_REDIRECTS} times")

    async def _get(
        self, url: URL, spool: Spool, owner: str | None, tells_private: bool
    ) -> str | None:
        """Send one request. Return the location if the server redirects, else None."""
        connector = self._http.connector()
        try:
            async with (
                self._http.session(connector, owner) as session,
                session.get(url, headers=_HEADERS, allow_redirects=False) as response,
            ):
                if response.status in _REDIRECTS:
                    return response.headers.get("Location", "")
                await _read(response, spool)
                return None
        except (aiohttp.ClientError, ValueError, OSError) as error:
            if self._http.refuses(url) or (tells_private and connector.has_refused):
                raise _forbidden("leads to an address that is not public") from error
            if isinstance(error, TimeoutError):
                raise
            raise _unavailable(
                "could not be reached at a public address, or closed the connection early"
            ) from error

    def _check(self, text: str, max_chars: int = MAX_URL_CHARS) -> URL:
        try:
            return self._http.check(text, self._hosts, max_chars)
        except UrlError as error:
            raise _forbidden(str(error)) from error

    def _redirect_target(self, url: URL, location: str) -> URL:
        if not location or BAD_CHARS.search(location):
            raise _unavailable("redirected without a valid Location header")
        try:
            target = url.join(URL(location, encoded=True))
        except ValueError as error:
            raise _unavailable("redirected to an invalid URL") from error
        if (url.scheme, target.scheme) == ("https", "http"):
            raise _forbidden("was redirected from https to http")
        return self._check(str(target), MAX_LOCATION_CHARS)


def make_source(allow_private: bool, hosts: Sequence[str]) -> ImageSource:
    """Return the source for the operator's options.

    Args:
        allow_private: Whether any address and any port is allowed.
        hosts: See `ImageSource`.
    """
    if allow_private:
        return ImageSource(guard=lambda _address: True, ports=None, hosts=hosts)
    return ImageSource(hosts=hosts)


def _refuse_other_than_urls(text: str) -> None:
    """Explain what clients often send in place of a URL."""
    if text.lstrip()[:5].lower() == "data:":
        raise _forbidden("is a data URL that is not in base64; write data:image/png;base64,…")
    if looks_like_bare_base64(text):
        raise _forbidden("is base64 without a head; write data:image/png;base64, before it")
    if _FILE_NAME.fullmatch(text):
        raise _forbidden(
            "is the name of a file; send the file itself in a form, with curl as image=@FILE"
        )


async def _read(response: aiohttp.ClientResponse, spool: Spool) -> None:
    if response.status != 200:
        raise _unavailable(f"responded with status {response.status}")
    if (response.content_length or 0) > MAX_IMAGE_BYTES:
        raise image_too_large(spool.field)
    async for piece in _plain(response):
        spool.write(piece)


async def _plain(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the body in small pieces, decompressed if the server ignores what we accept."""
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    chunks = response.content.iter_chunked(_CHUNK_BYTES)
    if encoding == "identity":
        async for chunk in chunks:
            yield chunk
    elif encoding in _COMPRESSED:
        async for piece in _inflated(chunks):
            yield piece
    else:
        raise _unavailable("responded with an unknown Content-Encoding")


async def _inflated(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # takes zlib's format and gzip's
    try:
        async for chunk in chunks:
            rest = chunk
            while rest:
                yield inflater.decompress(rest, _CHUNK_BYTES)
                rest = inflater.unconsumed_tail
                await asyncio.sleep(0)  # a small body may inflate to the size limit
        yield inflater.flush()
    except zlib.error as error:
        raise _unavailable("responded with a damaged compressed body") from error
    if not inflater.eof:
        raise _unavailable("responded with an incomplete compressed body")


def _forbidden(what: str) -> _FetchError:
    return _FetchError(ErrorCode.IMAGE_URL_FORBIDDEN, what)


def _unavailable(what: str) -> _FetchError:
    return _FetchError(ErrorCode.IMAGE_UNAVAILABLE, what)
