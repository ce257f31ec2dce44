"""One run of a job on one rank: its stages, and the boundaries at which all ranks meet."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from broker.job import GroupShape, JobSpec, Stage, choose_layout
from broker.protocol import RunJob
from ranks.attention_cache import AttentionCache, CacheSchedule
from ranks.control import Control
from ranks.denoise import Denoiser, Guidance, Predictor
from ranks.device import Device
from ranks.layout import Layout, shard_sizes
from ranks.pipeline import (
    Models,
    PromptEncoder,
    draw_noise,
    embed_image,
    first_frame_mask,
    image_tensor,
    open_image,
)
from ranks.process_group import World
from ranks.solver import Solver
from ranks.ulysses import Condition, SequenceGroup
from ranks.vae import decode_chunks, encode_chunks, finish_encoding, num_latent_frames

logger = logging.getLogger(__name__)

UNCONDITIONAL = 1


class Engine:
    """The loaded models of one rank and its place among the others.

    Args:
        models: Of the model folder.
        device: Of this rank.
        world: The ranks of the group.
        control: Met at every boundary.
        shape: The group's default layout.
    """

    def __init__(
        self,
        models: Models,
        device: Device,
        world: World,
        control: Control,
        shape: GroupShape,
    ) -> None:
        self.models = models
        self.device = device
        self.world = world
        self.control = control
        self.shape = shape
        self.prompts = PromptEncoder(models)

    def layout(self, spec: JobSpec) -> Layout:
        """Return the layout of a job."""
        cfg_size, ulysses_size = choose_layout(spec, self.shape)
        return Layout(
            world_size=self.world.world_size, cfg_size=cfg_size, ulysses_size=ulysses_size
        )


class Run:
    """One job on its way through the stages, the same on every rank.

    Args:
        engine: Of this rank.
        job: What to make.
        inputs_dir: Where the image is.
        enter: Called when a stage begins.
        finish_step: Called after each piece of work with the number of pieces of its stage.
    """

    def __init__(
        self,
        engine: Engine,
        job: RunJob,
        inputs_dir: Path,
        enter: Callable[[Stage], None],
        finish_step: Callable[[int], None],
    ) -> None:
        self._engine = engine
        self._spec = job.spec
        self._image_path = inputs_dir / job.image
        self._enter = enter
        self._finish_step = finish_step
        self._layout = engine.layout(job.spec)
        self._groups = engine.world.groups(self._layout)

    def frames(self) -> Iterator[Tensor]:
        """Make the video.

        Yields:
            On rank 0, frames `[1, 3, T, H, W]` from -1 to 1, in order; elsewhere nothing.

        Raises:
            RunLeft: On every rank at the same boundary, if the run ends early.
            JobError: If the job cannot be done.
        """
        conditions, first_frame = self._encode()
        latents = self._denoise(conditions, first_frame)
        yield from self._decode(latents)

    def _encode(self) -> tuple[dict[int, Condition], Tensor]:
        """Return what each branch of this rank attends to, and mask with first frame."""
        spec, models = self._spec, self._engine.models
        self._enter(Stage.ENCODE)
        num_items = 2 + num_latent_frames(spec.num_model_frames)
        image = open_image(self._image_path, spec.width_px, spec.height_px)
        prompts = [spec.prompt, spec.negative_prompt or ""]
        embeds = {branch: self._engine.prompts.encode(prompts[branch]) for branch in self._branches}
        self._finish_item(num_items)
        image_embeds = embed_image(models, image)
        conditions = {
            branch: models.transformer.condition(prompt_embeds, image_embeds)
            for branch, prompt_embeds in embeds.items()
        }
        self._finish_item(num_items)
        return conditions, self._encode_first_frame(image_tensor(image), num_items)

    def _encode_first_frame(self, image: Tensor, num_items: int) -> Tensor:
        """Return mask and encoded first frame, the same on every rank."""
        device, vae = self._engine.device, self._engine.models.vae
        pixels = image.to(device.torch_device, vae.dtype)
        num_frames = self._spec.num_model_frames
        chunks = []
        for chunk in self._on_rank_0(
            lambda: encode_chunks(vae, pixels, num_frames), num_latent_frames(num_frames)
        ):
            chunks += [] if chunk is None else [chunk]
            self._finish_item(num_items)
        latents = (
            finish_encoding(vae, chunks)
            if chunks
            else torch.empty(self._latent_shape, device=device.torch_device)
        )
        if self._engine.world.world_size > 1:
            latents = latents.contiguous()
            dist.broadcast(latents, src=0)
        return torch.cat((first_frame_mask(latents), latents), dim=1)

    def _denoise(self, conditions: dict[int, Condition], first_frame: Tensor) -> Tensor:
        """Return latents without noise, the same on every rank."""
        spec = self._spec
        self._enter(Stage.DENOISE)
        denoiser = Denoiser(
            Solver(spec.solver, spec.infer_steps, spec.sample_shift),
            draw_noise(self._seed, self._latent_shape),
        )
        with ExitStack() as stack:
            cache = (
                stack.enter_context(AttentionCache(schedule))
                if (schedule := self._cache_schedule())
                else None
            )
            predictor = self._predictor(conditions, first_frame, cache)
            while not denoiser.is_done:
                denoiser.advance(predictor)
                self._finish_item(spec.infer_steps)
        return denoiser.latents

    def _predictor(
        self,
        conditions: dict[int, Condition],
        first_frame: Tensor,
        cache: AttentionCache | None,
    ) -> Predictor:
        transformer = self._engine.models.transformer
        _, _, *lengths = self._latent_shape
        frames, height, width = lengths
        shape = (frames, height, width)
        sizes = shard_sizes(transformer.num_tokens(shape), self._layout.ulysses_size)
        shard = self._layout.shard(self._engine.world.rank)
        return Predictor(
            transformer=transformer,
            first_frame=first_frame,
            guidance=Guidance(
                scale=self._spec.guidance_scale, conditions=conditions, group=self._groups.cfg
            ),
            sequence=SequenceGroup(self._groups.ulysses, sizes, shard),
            rope=transformer.rope_tables(shape, first_frame.device),
            cache=cache,
        )

    def _decode(self, latents: Tensor) -> Iterator[Tensor]:
        self._enter(Stage.DECODE)
        vae = self._engine.models.vae
        moved = latents.to(self._engine.device.torch_device)
        num_chunks = latents.shape[2]
        for frames in self._on_rank_0(lambda: decode_chunks(vae, moved), num_chunks):
            if frames is not None:
                yield frames
            self._finish_item(num_chunks)

    def _on_rank_0(
        self, work: Callable[[], Iterator[Tensor]], num_items: int
    ) -> Iterator[Tensor | None]:
        """Yield the results of work on rank 0, as many Nones elsewhere."""
        if self._engine.world.rank == 0:
            yield from work()
        else:
            yield from [None] * num_items

    def _finish_item(self, num_items: int) -> None:
        """Count a piece of work and meet the other ranks."""
        self._finish_step(num_items)
        self._engine.control.meet()

    @property
    def _branches(self) -> list[int]:
        """Guidance branches that this rank computes."""
        if self._layout.cfg_size == 2:
            return [self._layout.branch(self._engine.world.rank)]
        return [0] if self._spec.guidance_scale <= 1.0 else [0, UNCONDITIONAL]

    @property
    def _seed(self) -> int:
        assert self._spec.seed is not None  # the front draws one where the client names none
        return self._spec.seed

    @property
    def _latent_shape(self) -> tuple[int, int, int, int, int]:
        config = self._engine.models.vae.config
        return (
            1,
            config.z_dim,
            num_latent_frames(self._spec.num_model_frames),
            self._spec.height_px // config.scale_factor_spatial,
            self._spec.width_px // config.scale_factor_spatial,
        )

    def _cache_schedule(self) -> CacheSchedule | None:
        spec = self._spec
        if not spec.use_attentioncache:
            return None
        return CacheSchedule(
            start=spec.start_step,
            interval=spec.attentioncache_interval,
            end=spec.end_step,
            num_steps=spec.infer_steps,
        )
