"""The broker's configuration."""

import msgspec

from broker.dispatch.policy import DispatchPolicy
from broker.process.log import LogFormat
from broker.wire.sockets import Addresses


class BrokerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The launcher passes it as JSON, the only argument of `python -m broker`."""

    state_dir: str
    """Holds `jobs.sqlite3`, on a local disk."""
    store: str | None = None
    """Holds `inputs/`, `videos/` and `checkpoints/`: a folder or `s3://BUCKET/PREFIX`; None is the
    state directory."""
    min_free_bytes: int = 0
    """Free space of the store's disk below which the oldest videos that are not kept are removed
    before their time; not for a bucket."""
    addresses: Addresses
    listen: Addresses | None = None
    """Addresses of the same four sockets for other machines."""
    policy: DispatchPolicy
    groups: tuple[str, ...] | None = None
    """The groups that will run; jobs that the journal has leased to others are taken back at the
    start. None if other groups may run elsewhere."""
    draining: bool = False
    """Whether the server is about to stop: no attempt begins, those that run may end."""
    log_format: LogFormat = "text"
    parent_pid: int
    """Pid of the launcher."""
    ready_fd: int | None = None
    """Receives the line `ready` once the sockets are bound, then `alive` every second."""
