"""Configuration of one HTTP front process."""

from typing import Literal

import msgspec

from broker.process.log import LogFormat
from broker.wire.sockets import Addresses
from http_front.models.profile_fields import TextLimits

Downloads = Literal["relay", "redirect"]
AccessLog = Literal["off", "errors", "all"]


class FrontConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The launcher passes this as JSON, the only argument of `python -m http_front`."""

    addresses: Addresses
    store: str
    """Store for accepted images and finished videos: a folder or `s3://BUCKET/PREFIX`."""
    work_dir: str | None = None
    """Local folder for images on their way to an object store. Fronts must not share it."""
    store_downloads: Downloads = "relay"
    """How clients get videos from an object store: through the front, or by a redirect."""
    listen_fd: int | None = None
    """Listening socket bound by the launcher, which keeps it open across restarts of the front."""
    more_listen_fds: tuple[int, ...] = ()
    """Further such sockets, if the host has several addresses."""
    host: str = "127.0.0.1"
    port: int = 8088
    """Used when `listen_fd` is None."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names that clients may use, besides `host` and the loopback names. If this is empty and
    `host` is not a loopback address, any name is allowed."""
    cors_origins: tuple[str, ...] = ()
    """Other sites whose pages may use the server, such as `https://example.com`."""
    api_keys: str | None = None
    """Path of the API key file. None: no key is required."""
    makes_callbacks: bool = False
    """Whether jobs may have a `callback_url`. The signing key is in the store."""
    image_hosts: tuple[str, ...] = ()
    """Hosts that images may be fetched from. `.example.com` allows every host below it; an empty
    tuple allows any host."""
    allow_private_images: bool = False
    """Whether images may be fetched from non-public addresses and from any port."""
    allow_private_callbacks: bool = False
    """Whether callbacks may go to non-public addresses and to any port."""
    realtime_front: bool = False
    """Whether the front runs with real-time priority."""
    min_prompt_chars: int = 10
    max_prompt_chars: int = 500
    """Of prompts that come by `/video/submit`."""
    log_format: LogFormat = "text"
    access_log: AccessLog = "errors"
    """Which requests have a log line."""
    parent_pid: int
    """Pid of the launcher."""
    ready_fd: int | None = None
    """File descriptor that receives the line `ready` once the front serves requests, then `alive`
    every second."""

    @property
    def text_limits(self) -> TextLimits:
        return TextLimits(self.min_prompt_chars, self.max_prompt_chars)
