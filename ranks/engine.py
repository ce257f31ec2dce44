"""A loaded rank: its models, its device and its process group."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from broker.wire.group_shape import GroupShape, layout_sizes, unguided_sizes
from broker.wire.job import JobSpec
from ranks.control import Control
from ranks.device import Device
from ranks.families.family import ModelFamily
from ranks.kept_encodings import KeptEncodings
from ranks.loras.lora_switch import LoraSwitch
from ranks.model.conditioning import Models, PromptEncoder
from ranks.model.transformer import ShardTransformer
from ranks.parallel.layout import Layout
from ranks.parallel.process_group import World
from ranks.parallel.sharding import set_sharded
from ranks.parallel.vae_split import VaePatch, VaeSplit
from ranks.sampling.step_parts import StepPace


@dataclass(frozen=True, kw_only=True)
class JobLayouts:
    """The layouts of one job."""

    guided: Layout
    """Also that of a job without any guidance."""
    unguided: Layout
    """From the step on at which guidance ends."""

    def of(self, is_guided: bool) -> Layout:
        return self.guided if is_guided else self.unguided


class Engine:
    """The models and communicators of one rank.

    Args:
        family: Family of the model.
        models: Components of the model, loaded on `device`.
        device: Device of this rank.
        world: All ranks of the group.
        shape: Default layout of the group, and its memory costs.
        loras: The LoRAs that jobs may take.
        dit_fsdp: Default: keep the transformer's weights sharded between blocks.
        t5_fsdp: Default: keep the text encoder's weights sharded between blocks.
        vae_parallel: Default: split the VAE over the ranks.
    """

    def __init__(
        self,
        family: ModelFamily,
        models: Models,
        device: Device,
        world: World,
        shape: GroupShape,
        loras: LoraSwitch,
        *,
        dit_fsdp: bool,
        t5_fsdp: bool,
        vae_parallel: bool,
    ) -> None:
        self.family = family
        self.models = models
        self.device = device
        self.world = world
        self.shape = shape
        self.loras = loras
        self.control = Control(world.rank, world.control_group)
        self.pace = StepPace()
        self.prompts = PromptEncoder(models)
        self.encodings = KeptEncodings()
        self._split = VaeSplit(models.vae, world.rank, world.world_size)
        self._dit_fsdp, self._t5_fsdp, self._vae_parallel = dit_fsdp, t5_fsdp, vae_parallel

    def layouts(self, spec: JobSpec) -> JobLayouts:
        guided = layout_sizes(spec, self.shape)  # the broker has checked the job
        unguided = unguided_sizes(*guided, self.shape.num_heads)
        return JobLayouts(guided=self._layout(*guided), unguided=self._layout(*unguided))

    def _layout(self, cfg_size: int, ulysses_size: int) -> Layout:
        return Layout(
            world_size=self.world.world_size, cfg_size=cfg_size, ulysses_size=ulysses_size
        )

    def set_weight_sharding(self, spec: JobSpec) -> None:
        self.release_hosted()
        self._shard_transformers(0, spec)
        set_sharded(self.models.text_encoder, _or_default(spec.t5_fsdp, self._t5_fsdp))

    def use_transformer(self, expert: int, spec: JobSpec) -> ShardTransformer:
        """Return a transformer, which may keep its gathered weights; free those of the others."""
        self._shard_transformers(expert, spec)
        self.models.hosted.use_transformer(expert)
        return self.models.transformers[expert]

    def _shard_transformers(self, expert: int, spec: JobSpec) -> None:
        is_sharded = _or_default(spec.dit_fsdp, self._dit_fsdp)
        for index, transformer in enumerate(self.models.transformers):
            set_sharded(transformer, is_sharded or index != expert)

    def forget_inputs(self) -> None:
        """Drop what is kept of earlier jobs' prompts and images; every rank must."""
        self.prompts.clear()
        self.encodings.clear()

    def release_text_encoder(self) -> None:
        # A job needs the gathered weights only for its prompts.
        set_sharded(self.models.text_encoder, sharded=True)
        self.release_hosted()

    def release_hosted(self) -> None:
        """Take off the device what is in host memory between its uses."""
        if self.models.hosted.device_bytes:
            self.models.hosted.release()
            self.device.free_memory()  # its pieces are of no use for what comes next

    @contextmanager
    def vae_split(self, spec: JobSpec) -> Iterator[VaePatch | None]:
        """Split the VAE over the ranks while the context is open, if the job asks for it.

        Yields:
            This rank's patch, or None if the VAE works on whole frames.
        """
        if not _or_default(spec.vae_parallel, self._vae_parallel):
            yield None
            return
        scale = self.models.vae.config.scale_factor_spatial
        with self._split.active(spec.height_px // scale, spec.width_px // scale) as patch:
            yield patch


def _or_default(value: bool | None, default: bool) -> bool:
    return default if value is None else value
