"""What the ranks of a group are told at their start."""

from typing import Literal

import msgspec

from broker.process.log import LogFormat
from broker.wire.sockets import Addresses

DeviceKind = Literal["npu", "cuda", "cpu"]


class DeviceReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `python -m ranks.device` finds; the launcher, which imports no torch, reads it."""

    kind: DeviceKind
    description: str
    """How many devices of which size, for people."""


class RankConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The launcher passes it as JSON, the only argument of `python -m ranks`."""

    group: str
    epoch: int
    """Which life of the group this is; it rises with every start."""
    world_size: int
    model_path: str
    """A folder in the layout of diffusers."""
    device: DeviceKind
    first_device: int = 0
    """Index of the device of rank 0; rank n has the n-th after it."""
    addresses: Addresses
    store: str
    """Of images, videos and saved states: a folder or `s3://BUCKET/PREFIX`."""
    work_dir: str | None = None
    """A local folder of this group alone for files from and to an object store."""
    rendezvous: str
    """A file that does not exist yet; the ranks find each other through it."""
    cfg_size: int | None = None
    ulysses_size: int | None = None
    dit_fsdp: bool = False
    t5_fsdp: bool = False
    vae_parallel: bool = False
    """The group's defaults of the fields of the same names in `JobSpec`."""
    checkpoint_steps: int = 5
    """Denoising steps between two saved states, from which an interrupted job goes on."""
    log_format: LogFormat = "text"
    parent_pid: int
    """Pid of the launcher."""
    ready_fd: int | None = None
    """Where lines for the launcher go: `born RANK PID`, `ready RANK`, `failed RANK TEXT`."""
    is_trial: bool = False
    """Whether the ranks only try their devices and the collectives; they load and serve nothing."""

    @property
    def can_fork(self) -> bool:
        """Whether the ranks can share one import: no accelerator's runtime survives a fork."""
        return self.device == "cpu"
