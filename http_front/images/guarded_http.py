"""HTTP requests to URLs chosen by clients, protected against access to private networks (SSRF).

The socket factory checks the address of every connection. It sees addresses after name resolution,
and also literal addresses, which never pass a resolver.
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
from aiohttp import http
from aiohttp.abc import AbstractResolver
from yarl import URL

from http_front.images.name_lookup import NameLookup, OwnersResolver

CONNECT_LIMIT_S = 5.0
READ_LIMIT_S = 5.0
MAX_URL_CHARS = 2048
WEB_PORTS = frozenset({80, 443})
# Some hosts, such as Wikimedia's, refuse clients that do not say what they are.
_USER_AGENT = f"wan-ranks/0.1 (image-to-video server, on request of a user) {http.SERVER_SOFTWARE}"

# Whitespace, control characters, line separators, direction marks and the backslash: URL parsers
# disagree about them.
BAD_CHARS = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\\]")

# Matches an empty user name too, which the URL parser does not report.
_USER = re.compile(r"[^/?#]*//[^/?#]*@")

Guard = Callable[[str], bool]


class UrlError(ValueError):
    """Raised when a URL is not allowed. The message continues a sentence after the field's name."""


class GuardedHttp:
    """Checks URLs and makes sessions that connect only to allowed addresses.

    Args:
        guard: Returns whether the server may connect to an address.
        ports: Ports allowed in URLs; None allows all.
        resolver: Resolves host names; None uses the system's resolver, in threads of its own.
    """

    def __init__(
        self, guard: Guard, ports: frozenset[int] | None, resolver: AbstractResolver | None
    ) -> None:
        self._guard = guard
        self._ports = ports
        self._resolver = resolver
        self._names = NameLookup()

    def check(self, text: str, hosts: Sequence[str] = (), max_chars: int = MAX_URL_CHARS) -> URL:
        """Check everything about a URL that needs no connection, and return it parsed.

        Path and query stay as they are written, because a signature may cover their spelling.

        Args:
            text: As the client wrote it.
            hosts: Allowed hosts; `.example.com` allows all hosts below it; empty allows any.
            max_chars: How long the URL may be.

        Raises:
            UrlError: If the URL is not allowed.
        """
        if len(text) > max_chars:
            raise UrlError(f"has {len(text)} characters; at most {max_chars} are allowed")
        if BAD_CHARS.search(text):
            raise UrlError(
                "must not hold whitespace, control characters, direction marks or a backslash"
            )
        try:
            url = URL(text)
            host, port = url.host, url.port
        except ValueError as error:
            raise UrlError("is not a valid URL") from error
        if url.scheme not in ("http", "https") or not host:
            raise UrlError("must be an http or https URL with a host")
        if url.user is not None or url.password is not None or _USER.match(text):
            raise UrlError("must not hold a user name or a password")
        if self._ports is not None and port not in self._ports:
            allowed_ports = " and ".join(map(str, sorted(self._ports)))
            raise UrlError(f"names port {port}; only {allowed_ports} are allowed")
        if hosts and not any(_is_at(host, allowed) for allowed in hosts):
            raise UrlError(f"names a host that is not one of {', '.join(hosts)}")
        return _as_written(url, text) if text.isascii() else url

    def refuses(self, url: URL) -> bool:
        """Whether the URL holds an address that is not allowed. Names are checked on connect."""
        return _is_address(url.host or "") and not self._guard(url.host or "")

    def connector(self) -> "GuardedConnector":
        """Return the connector for one session; it records whether it refused an address."""
        return GuardedConnector(self._guard)

    def session(self, connector: "GuardedConnector", owner: str | None) -> aiohttp.ClientSession:
        """Return a session that connects only to allowed addresses and keeps no cookies.

        Args:
            connector: Checks the addresses.
            owner: For whom the requests are, since owners share the look-up of names.
        """
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                socket_factory=connector,
                resolver=self._resolver or OwnersResolver(self._names, owner),
                use_dns_cache=False,
                force_close=True,
            ),
            connector_owner=True,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers={"Accept-Encoding": "identity", "User-Agent": _USER_AGENT},
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_LIMIT_S, sock_read=READ_LIMIT_S
            ),
        )


class GuardedConnector:
    """Socket factory that refuses addresses that are not allowed."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.has_refused = False

    def __call__(self, address: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, endpoint = address
        if not self._guard(endpoint[0]):
            self.has_refused = True
            raise OSError("connecting to this address is not allowed")
        return socket.socket(family, kind, protocol)


def _as_written(url: URL, text: str) -> URL:
    """Return a parsed URL with path and query of its text; the parser decodes some characters."""
    written = URL(text, encoded=True)
    return URL.build(
        scheme=url.scheme,
        authority=url.raw_authority,
        path=written.raw_path or "/",
        query_string=written.raw_query_string,
        encoded=True,
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_at(host: str, allowed: str) -> bool:
    return host.endswith(allowed) if allowed.startswith(".") else host == allowed
