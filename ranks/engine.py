"""What a rank has once it is loaded: models, device, and its place among the others."""

from collections.abc import Iterator
from contextlib import contextmanager

from broker.wire.job import GroupShape, JobSpec, choose_layout
from ranks.control import Control
from ranks.device import Device
from ranks.model.conditioning import Models, PromptEncoder
from ranks.parallel.layout import Layout
from ranks.parallel.process_group import World
from ranks.parallel.sharding import set_sharded
from ranks.parallel.vae_split import VaePatch, VaeSplit


class Engine:
    """A loaded rank.

    Args:
        models: Of the model folder.
        device: Of this rank.
        world: The ranks of the group.
        shape: The group's defaults.
        dit_fsdp: Whether the transformer's weights stay sharded, where a job leaves it open.
        t5_fsdp: The same of the text encoder's.
        vae_parallel: Whether the VAE is split, where a job leaves it open.
    """

    def __init__(
        self,
        models: Models,
        device: Device,
        world: World,
        shape: GroupShape,
        *,
        dit_fsdp: bool,
        t5_fsdp: bool,
        vae_parallel: bool,
    ) -> None:
        self.models = models
        self.device = device
        self.world = world
        self.shape = shape
        self.control = Control(world.rank, world.control_group)
        self.prompts = PromptEncoder(models)
        self._split = VaeSplit(models.vae, world.rank, world.world_size)
        self._dit_fsdp, self._t5_fsdp, self._vae_parallel = dit_fsdp, t5_fsdp, vae_parallel

    def layout(self, spec: JobSpec) -> Layout:
        """Return the layout of a job."""
        cfg_size, ulysses_size = choose_layout(spec, self.shape)
        return Layout(
            world_size=self.world.world_size, cfg_size=cfg_size, ulysses_size=ulysses_size
        )

    def set_weight_sharding(self, spec: JobSpec) -> None:
        """Keep weights sharded or gathered, as a job wants it."""
        set_sharded(self.models.transformer, _either(spec.dit_fsdp, self._dit_fsdp))
        set_sharded(self.models.text_encoder, _either(spec.t5_fsdp, self._t5_fsdp))

    def release_text_encoder(self) -> None:
        """Let go of the text encoder's gathered weights; a job needs them for its prompts only."""
        set_sharded(self.models.text_encoder, sharded=True)

    @contextmanager
    def vae_split(self, spec: JobSpec) -> Iterator[VaePatch | None]:
        """Let the VAE work on patches, if the job wants it.

        Yields:
            This rank's patch, None where the VAE works on whole frames.
        """
        if not _either(spec.vae_parallel, self._vae_parallel):
            yield None
            return
        scale = self.models.vae.config.scale_factor_spatial
        with self._split.active(spec.height_px // scale, spec.width_px // scale) as patch:
            yield patch


def _either(wanted: bool | None, default: bool) -> bool:
    return default if wanted is None else wanted
