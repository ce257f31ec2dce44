"""What the HTTP front is told at its start."""

from typing import Literal

import msgspec

from broker.process.log import LogFormat
from broker.wire.sockets import Addresses

Downloads = Literal["relay", "redirect"]


class FrontConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The launcher passes it as JSON, the only argument of `python -m http_front`."""

    addresses: Addresses
    store: str
    """Of accepted images and finished videos: a folder or `s3://BUCKET/PREFIX`."""
    work_dir: str | None = None
    """A local folder of this front alone for images on their way to an object store."""
    store_downloads: Downloads = "relay"
    """Whether videos in an object store pass through here, or clients fetch them there."""
    listen_fd: int | None = None
    """A listening socket that the launcher has bound and keeps across restarts of the front."""
    host: str = "127.0.0.1"
    port: int = 8088
    """Used where no `listen_fd` is given."""
    allowed_hosts: tuple[str, ...] = ()
    """Names, besides those of loopback and `host`, by which clients may address the server; left
    empty on an address that is not loopback, any name is good."""
    cors_origins: tuple[str, ...] = ()
    """Other sites whose pages may use the server, as `https://example.com`."""
    api_keys: str | None = None
    """File of the API keys; None where everybody who reaches the server may use it."""
    makes_callbacks: bool = False
    """Whether clients may be called back; the key that signs this is in the store."""
    image_hosts: tuple[str, ...] = ()
    """The hosts that images may come from, `.example.com` for all below it; empty is any."""
    allow_private_images: bool = False
    """Whether images may come from addresses that are not public, and from any port."""
    realtime_front: bool = False
    """Whether it has real-time priority."""
    log_format: LogFormat = "text"
    parent_pid: int
    """Pid of the launcher."""
    ready_fd: int | None = None
    """Where the line `ready` goes once requests are answered."""
