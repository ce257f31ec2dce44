"""The sockets that processes listen on, from `/proc`."""

import contextlib
import ipaddress
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

_LISTEN = "0A"
_ACCEPTS = 0x10000  # the flag of a listening socket in /proc/net/unix


def listening(pids: Iterable[int]) -> set[str]:
    """Return TCP addresses, such as `127.0.0.1:80`, and the paths of Unix sockets."""
    owned = {inode for pid in pids for inode in _inodes(pid)}
    sockets = [*_tcp("tcp"), *_tcp("tcp6"), *_unix()]
    return {address for inode, address in sockets if inode in owned}


def _inodes(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(link.readlink())
                if target.startswith("socket:["):
                    yield target[8:-1]


def _tcp(kind: str) -> Iterator[tuple[str, str]]:
    for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == _LISTEN:
            host, _, port = fields[1].partition(":")
            words = struct.unpack(f"={len(host) // 8}I", bytes.fromhex(host))
            packed = struct.pack(f">{len(words)}I", *words)
            yield fields[9], f"{ipaddress.ip_address(packed)}:{int(port, 16)}"


def _unix() -> Iterator[tuple[str, str]]:
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if int(fields[3], 16) & _ACCEPTS and len(fields) > 7:
            yield fields[6], fields[7]
