"""Decides which addresses the server may connect to for a client: public ones only.

The lists follow the IANA registries as of 2026. The standard library's `is_global` is not enough:
it lags behind the registries, and it accepts addresses that a translator maps to private ones.
"""

import ipaddress
import socket

_PUBLIC_V6 = tuple(
    ipaddress.IPv6Network(block)
    for block in (
        # The blocks that IANA has allocated to regional registries. The rest of 2000::/3 is
        # unallocated, and nothing outside 2000::/3 is global unicast.
        "2001::/16",
        "2003::/18",
        "2400::/11",
        "2600::/12",
        "2610::/23",
        "2620::/23",
        "2630::/12",
        "2800::/12",
        "2a00::/11",
        "2c00::/12",
    )
)
_REFUSED_V6 = tuple(
    ipaddress.IPv6Network(block)
    for block in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
    )
)
_REFUSED_V4 = tuple(
    ipaddress.IPv4Network(block)
    for block in (
        "0.0.0.0/8",  # this network; on many systems 0.0.0.0 connects to loopback
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared address space; also metadata services
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local; metadata services
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; also a metadata service
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4, deprecated
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
        # Public in the registries, but used for services inside one cloud:
        "168.63.129.16/32",  # Azure's platform
        "199.36.153.4/30",  # Google's restricted APIs
        "199.36.153.8/30",  # Google's private APIs
        "161.26.0.0/16",  # IBM's infrastructure endpoints
        "166.8.0.0/14",  # IBM's service endpoints
    )
)
# Upper halves of an interface id that embeds an IPv4 address for a tunnel (ISATAP).
_ISATAP = (0x00005EFE, 0x02005EFE)


def is_public(address: str) -> bool:
    """Return whether the text is a global unicast address in strict spelling.

    Other spellings are refused, never interpreted. An IPv4-mapped address counts as the IPv4
    address inside it.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv4Address):
        return _is_public_v4(parsed)
    if parsed.scope_id is not None:
        return False
    if parsed.ipv4_mapped is not None:
        return _is_public_v4(parsed.ipv4_mapped)
    return _is_public_v6(parsed)


def is_own(address: str) -> bool:
    """Return whether the address belongs to this machine, public or not.

    To reach its own address, a machine uses that address as the source too. Connecting a datagram
    socket makes the kernel choose the source address without sending anything.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError:
            return False  # unreachable, so it belongs to another machine
        source = str(probe.getsockname()[0])
    return ipaddress.ip_address(source.partition("%")[0]) == ipaddress.ip_address(address)


def may_connect_to(address: str) -> bool:
    return is_public(address) and not is_own(address)


def _is_public_v4(address: ipaddress.IPv4Address) -> bool:
    return not any(address in block for block in _REFUSED_V4)


def _is_public_v6(address: ipaddress.IPv6Address) -> bool:
    if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        return False
    is_refused = any(address in block for block in _REFUSED_V6)
    return not is_refused and any(address in block for block in _PUBLIC_V6)
