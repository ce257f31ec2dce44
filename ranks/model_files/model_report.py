"""What an inspection of a model tells: the output of `ranks.model_files.inspection`."""

import msgspec

from broker.wire.model_profile import ModelProfile
from ranks.config import DeviceReport
from ranks.model_files.components import ComponentName, Layout
from ranks.model_files.memory_estimate import ModelSizes


class ComponentReport(msgspec.Struct, frozen=True, kw_only=True):
    """A component with weights, as it is stored."""

    place: str
    dtypes: list[str]
    """As safetensors spells them: `F32`, `BF16`, …"""
    num_tensors: int
    num_bytes: int


class JobMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of each rank that a job needs, weights included."""

    plain_bytes: int
    """With the defaults of all options."""
    sharded_bytes: int
    """With `dit_fsdp`, `t5_fsdp` and `vae_parallel`."""


class ModelReport(msgspec.Struct, frozen=True, kw_only=True, tag="model"):
    """A model that can be served."""

    place: str
    layout: Layout
    profile: ModelProfile
    """Its name is the server's to choose: here it is the default one."""
    num_heads: int
    """Attention heads of the transformer."""
    components: dict[ComponentName, ComponentReport]
    weight_bytes: dict[int, int]
    """By number of ranks: what the weights take on each, without what a job takes."""
    sizes: ModelSizes
    warnings: list[str]
    """What lies beside the model and is ignored."""
    jobs: dict[int, JobMemory]
    """By number of ranks: what a job of the default size and length needs on each."""
    devices: DeviceReport | None = None
    """Those of this machine; None at a start."""


class ModelFault(msgspec.Struct, frozen=True, kw_only=True, tag="fault"):
    """Why there is no model that can be served."""

    message: str
    may_appear: bool
    """Whether nothing is there yet, as before a file system is mounted."""


def decode_report(output: str) -> ModelReport | ModelFault:
    # Libraries may write warnings of their own to standard output before it.
    return msgspec.json.decode(output.splitlines()[-1], type=ModelReport | ModelFault)
