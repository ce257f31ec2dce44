"""Call a URL that a stranger chose, without becoming their way into a network.

Every rule is checked on what is really dialled: the socket factory sees each address after name
resolution, and literals, too, which never pass a resolver.
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

CONNECT_LIMIT_S = 5.0
READ_LIMIT_S = 5.0
MAX_URL_CHARS = 2048
WEB_PORTS = frozenset({80, 443})

# Blanks, control characters, line separators, direction marks, backslash: parsers disagree on them.
BAD_CHARS = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\\]")

# Also an empty user, of which the parser says nothing.
_USER = re.compile(r"[^/?#]*//[^/?#]*@")

Guard = Callable[[str], bool]


class UrlError(ValueError):
    """Raised when a URL may not be called; the message says why, after the name of its field."""


class GuardedHttp:
    """What may be called outside of this machine.

    Args:
        guard: Decides on each address about to be dialled.
        ports: Those that a URL may name; None is all.
        resolver: Turns names into addresses; None is the system's.
    """

    def __init__(
        self, guard: Guard, ports: frozenset[int] | None, resolver: AbstractResolver | None
    ) -> None:
        self._guard = guard
        self._ports = ports
        self._resolver = resolver

    def check(self, text: str, hosts: Sequence[str] = ()) -> URL:
        """Return the URL if its text keeps to every rule that needs no connection.

        Args:
            text: As its client wrote it.
            hosts: Those that it may name, `.example.com` for all below it; empty is any.

        Raises:
            UrlError: If it does not.
        """
        if len(text) > MAX_URL_CHARS:
            raise UrlError(f"has {len(text)} characters; at most {MAX_URL_CHARS} are allowed")
        if BAD_CHARS.search(text):
            raise UrlError("holds a blank, a control character, a direction mark or a backslash")
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
            raise UrlError(f"names port {port}; only 80 and 443 are allowed")
        if hosts and not any(_is_at(host, allowed) for allowed in hosts):
            raise UrlError(f"names a host that is not one of {', '.join(hosts)}")
        return url

    def refuses(self, url: URL) -> bool:
        """Return whether a URL names an address that may not be dialled; of a name, time tells."""
        return _is_address(url.host or "") and not self._guard(url.host or "")

    def dialler(self) -> "GuardedConnector":
        """Return what dials for one session, and tells afterwards whether it refused to."""
        return GuardedConnector(self._guard)

    def session(self, dialler: "GuardedConnector") -> aiohttp.ClientSession:
        """Return a session that dials what may be dialled only, and takes nothing along."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                socket_factory=dialler,
                resolver=self._resolver,
                use_dns_cache=False,
                force_close=True,
            ),
            connector_owner=True,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "wan-ranks"},
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_LIMIT_S, sock_read=READ_LIMIT_S
            ),
        )


class GuardedConnector:
    """Makes the socket for each address about to be dialled, or refuses to."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.has_refused = False

    def __call__(self, address: tuple[Any, ...]) -> socket.socket:
        """Return a socket for an address, as the connector asks for it."""
        family, kind, protocol, _, endpoint = address
        if not self._guard(endpoint[0]):
            self.has_refused = True
            raise OSError("this address may not be dialled")
        return socket.socket(family, kind, protocol)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_at(host: str, allowed: str) -> bool:
    return host.endswith(allowed) if allowed.startswith(".") else host == allowed
