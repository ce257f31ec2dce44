"""Start parameters of a group's ranks."""

from typing import Literal

import msgspec

from broker.process.log import LogFormat
from broker.wire.model_profile import Attention, EightBit
from broker.wire.sockets import Addresses
from ranks.loras.lora_files import LoraFiles

DeviceKind = Literal["npu", "cuda", "cpu"]

VaeDtype = Literal["float32", "bfloat16"]

VAE_ITEM_BYTES: dict[VaeDtype, int] = {"float32": 4, "bfloat16": 2}


class KernelReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a rank computes with, as text for people."""

    element_wise: str
    attention: str
    is_slow: bool
    """Whether an accelerator has to compute operation by operation."""


class DeviceReport(msgspec.Struct, frozen=True, kw_only=True):
    """Output of `python -m ranks.device_report`; the launcher, which reads it, imports no torch."""

    kind: DeviceKind
    description: str
    """Number and size of the devices, as text for people."""
    capacity_bytes: int | None = None
    """Memory of the first device; None if ranks compute in host memory."""
    host_bytes: int = 0
    """Host memory that is free for each rank."""
    vae_item_bytes: int = 4
    """Of a number of the VAE in its usual dtype."""
    kernels: KernelReport | None = None
    """What ranks compute with; takes seconds to find out."""


class RankConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Configuration of the ranks, passed by the launcher as JSON to `python -m ranks`."""

    group: str
    epoch: int
    """Rises with every start of the group."""
    world_size: int
    model_path: str
    """Where the model is."""
    model_name: str = ""
    """By which jobs name it; empty stands for the name that its family's profile has."""
    transformers: tuple[str, ...] = ()
    """Single files that take the place of the folder's transformers."""
    is_distilled: bool = False
    """Whether it is a distilled model."""
    quantize: EightBit | None = None
    """Form in which the transformers' blocks are quantized as they are loaded."""
    quantize_skip: int = 0
    """Blocks at either end that are not."""
    attention: Attention = "exact"
    """What computes it."""
    vae_dtype: VaeDtype | None = None
    """What the VAE computes in; None for the usual dtype of the device."""
    loras: tuple[LoraFiles, ...] = ()
    """Those that jobs may take."""
    merged_loras: tuple[LoraFiles, ...] = ()
    """Those that are merged into the model when it is loaded."""
    device: DeviceKind
    first_device: int = 0
    """Device index of rank 0; rank n uses device `first_device + n`."""
    addresses: Addresses
    store: str
    """Store of images, videos and checkpoints: a folder or `s3://BUCKET/PREFIX`."""
    work_dir: str | None = None
    """Local folder of this group for files on their way to or from an object store."""
    rendezvous: str
    """Path of the file through which the ranks find each other; it must not exist yet."""
    cfg_size: int | None = None
    ulysses_size: int | None = None
    dit_fsdp: bool = False
    t5_fsdp: bool = False
    vae_parallel: bool | None = None
    """These five are the group's defaults of the `JobSpec` fields with the same names."""
    offload: str | None = None
    """What is kept in host memory, as `--offload` spells it; None lets the ranks choose."""
    checkpoint_steps: int = 5
    """Denoising steps between two checkpoints."""
    log_format: LogFormat = "text"
    parent_pid: int
    """Pid of the launcher."""
    ready_fd: int | None = None
    """Pipe for lines to the launcher: `born RANK PID`, `ready RANK`, `failed RANK TEXT`."""
    is_trial: bool = False
    """Only test the devices and the collectives; load no model and serve no jobs."""

    @property
    def splits_vae(self) -> bool:
        # The ranks of a CPU share its cores: splitting saves nothing there.
        return self.device != "cpu" if self.vae_parallel is None else self.vae_parallel

    @property
    def can_fork(self) -> bool:
        # No accelerator runtime survives a fork.
        return self.device == "cpu"
