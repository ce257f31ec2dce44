"""One run of a job on one rank: its stages, and the boundaries at which all ranks meet."""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from broker.wire.errors import ErrorCode
from broker.wire.job import JobSpec, Stage
from ranks.engine import Engine
from ranks.errors import JobError
from ranks.model.conditioning import (
    draw_noise,
    embed_image,
    first_frame_mask,
    image_tensor,
    open_image,
)
from ranks.model.transformer import LatentShape
from ranks.model.vae import decode_chunks, encode_chunks, finish_encoding, num_latent_frames
from ranks.parallel.layout import split_evenly
from ranks.parallel.ulysses import Condition, SequenceGroup
from ranks.sampling.attention_cache import AttentionCache, CacheSchedule
from ranks.sampling.checkpoint import State, load_state
from ranks.sampling.denoise import Denoiser, Guidance, Predictor
from ranks.sampling.solver import make_solver

logger = logging.getLogger(__name__)

NOT_FINITE = (
    "the model computed NaN or infinity; try another seed or guidance_scale, and if other jobs "
    "fail, too, check the model's weights"
)


@dataclass(frozen=True, kw_only=True)
class LocalJob:
    """A job whose files are on this machine; the same on every rank."""

    spec: JobSpec
    image: Path
    resume_from: Path | None = None
    """Checkpoint to resume from."""


class Observer(Protocol):
    """Receives the progress of a run."""

    def enter(self, stage: Stage) -> None:
        """Called when a stage begins."""

    def finish_step(self, num_steps: int) -> None:
        """Called after each of the `num_steps` steps of the stage."""

    def show(self, latents: Tensor) -> None:
        """Called with the predicted clean latents `[1, C, T, H, W]`, float32, CPU."""

    def offer_state(self, step: int, state: Callable[[], State]) -> None:
        """Called where the run could be resumed; `state` returns all that this takes."""


class Run:
    """One job on its way through the stages.

    Args:
        engine: Loaded models of this rank.
        job: The job and its files.
        observer: Receives the progress.
    """

    def __init__(self, engine: Engine, job: LocalJob, observer: Observer) -> None:
        self._engine = engine
        self._models = engine.models
        self._rank = engine.world.rank
        self._job = job
        self._spec = job.spec
        self._observer = observer
        self._layout = engine.layout(job.spec)
        self._groups = engine.world.groups(self._layout)
        self._num_model_frames = job.spec.num_model_frames

    def frames(self) -> Iterator[Tensor]:
        """Make the video.

        Yields:
            On rank 0, frames `[1, 3, T, H, W]` from -1 to 1, in order. Nothing on other ranks.

        Raises:
            RunInterrupted: On every rank at the same boundary, if the run ends early.
            JobError: If the job fails.
        """
        self._engine.set_weight_sharding(self._spec)
        conditions, first_frame = self._encode()
        latents = self._denoise(conditions, first_frame)
        yield from self._decode(latents)

    def _encode(self) -> tuple[dict[int, Condition], Tensor]:
        """Return the condition of each branch of this rank, and the first frame with its mask."""
        self._observer.enter(Stage.ENCODE)
        num_items = 2 + num_latent_frames(self._num_model_frames)
        image = open_image(self._job.image, self._spec.width_px, self._spec.height_px)
        prompt_embeds = self._encode_prompts()
        self._finish_item(num_items)
        image_embeds = embed_image(self._models, image)
        conditions = {
            branch: self._models.transformer.condition(prompt_embeds[branch], image_embeds)
            for branch in self._branches
        }
        self._finish_item(num_items)
        return conditions, self._encode_first_frame(image_tensor(image), num_items)

    def _encode_prompts(self) -> list[Tensor]:
        """Return the prompt embeddings `[1, 512, C]` of every guidance branch.

        Every rank encodes both branches, even if it computes one: with sharded weights, no rank can
        encode a prompt alone.
        """
        prompts = [self._spec.prompt]
        if self._is_guided:
            prompts.append(self._spec.negative_prompt or "")
        prompt_embeds = [self._engine.prompts.encode(prompt) for prompt in prompts]
        self._engine.release_text_encoder()
        return prompt_embeds

    def _encode_first_frame(self, image: Tensor, num_items: int) -> Tensor:
        """Return mask and encoded first frame `[1, C, T, H, W]`, the same on every rank."""
        vae = self._models.vae
        pixels = image.to(self._engine.device.torch_device, vae.dtype)
        num_chunks = num_latent_frames(self._num_model_frames)
        chunks = []
        with self._engine.vae_split(self._spec) as split:
            is_here = split is not None or self._rank == 0
            work = encode_chunks(vae, pixels, self._num_model_frames, split)
            for chunk in work if is_here else _placeholders(num_chunks):
                chunks.append(chunk)
                self._finish_item(num_items)
        if is_here:
            latents = finish_encoding(vae, chunks).contiguous()
        else:
            latents = torch.empty(self._latent_shape, device=pixels.device)
        if split is None and self._engine.world.world_size > 1:
            dist.broadcast(latents, src=0)
        return torch.cat((first_frame_mask(latents), latents), dim=1)

    def _denoise(self, conditions: dict[int, Condition], first_frame: Tensor) -> Tensor:
        """Return the clean latents `[1, C, T, H, W]`, the same on every rank up to rounding."""
        self._observer.enter(Stage.DENOISE)
        denoiser = self._start_denoiser()
        schedule = self._cache_schedule()
        with ExitStack() as stack:
            cache = None if schedule is None else stack.enter_context(AttentionCache(schedule))
            predictor = self._predictor(conditions, first_frame, cache)
            while not denoiser.is_done:
                denoiser.advance(predictor)
                # Here they are on the host: no wait for the device, and no bad preview or state.
                # A rank that alone finds some makes the others leave at their next boundary.
                _require_finite(denoiser.latents, f"latents after step {denoiser.step}")
                self._observer.show(denoiser.solver.estimate())
                if schedule is None or schedule.can_begin_at(denoiser.step):
                    self._observer.offer_state(denoiser.step, denoiser.state)
                self._finish_item(self._spec.infer_steps)
        return denoiser.latents

    def _start_denoiser(self) -> Denoiser:
        spec = self._spec
        assert spec.seed is not None  # the front draws one if the client names none
        solver = make_solver(spec.solver, spec.infer_steps, spec.sample_shift)
        denoiser = Denoiser(solver, draw_noise(spec.seed, self._latent_shape))
        if self._job.resume_from is not None:
            denoiser.restore(load_state(self._job.resume_from))
            logger.info("goes on after step %d", denoiser.step)
            for _ in range(denoiser.step):
                self._observer.finish_step(spec.infer_steps)
        return denoiser

    def _predictor(
        self,
        conditions: dict[int, Condition],
        first_frame: Tensor,
        cache: AttentionCache | None,
    ) -> Predictor:
        transformer = self._models.transformer
        shape: LatentShape = self._latent_shape[2:]
        sizes = split_evenly(transformer.num_tokens(shape), self._layout.ulysses_size)
        return Predictor(
            transformer=transformer,
            first_frame=first_frame,
            guidance=Guidance(
                guidance_scale=self._spec.guidance_scale,
                conditions=conditions,
                group=self._groups.cfg if self._is_guided else None,
            ),
            sequence=SequenceGroup(self._groups.ulysses, sizes, self._layout.shard(self._rank)),
            rope=transformer.rope_tables(shape, first_frame.device),
            cache=cache,
        )

    def _decode(self, latents: Tensor) -> Iterator[Tensor]:
        self._observer.enter(Stage.DECODE)
        latents = latents.to(self._engine.device.torch_device).contiguous()
        num_chunks = latents.shape[2]
        with self._engine.vae_split(self._spec) as split:
            if split is not None:
                # Replicas may have rounded differently, which would show where patches meet.
                dist.broadcast(latents, src=0)
            is_here = split is not None or self._rank == 0
            work = decode_chunks(self._models.vae, latents, split)
            for frames in work if is_here else _placeholders(num_chunks):
                if self._rank == 0:
                    _require_finite(frames, "decoded frames")
                    yield frames.clamp(-1.0, 1.0)
                self._finish_item(num_chunks)

    def _finish_item(self, num_items: int) -> None:
        self._observer.finish_step(num_items)
        self._engine.control.meet()

    @property
    def _is_guided(self) -> bool:
        return self._spec.guidance_scale > 1.0

    @property
    def _branches(self) -> list[int]:
        """Guidance branches that this rank computes: 0 conditional, 1 unconditional."""
        if not self._is_guided:
            return [0]  # in any layout: there is no other branch
        return [0, 1] if self._layout.cfg_size == 1 else [self._layout.branch(self._rank)]

    @property
    def _latent_shape(self) -> tuple[int, int, int, int, int]:
        config = self._models.vae.config
        return (
            1,
            config.z_dim,
            num_latent_frames(self._num_model_frames),
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
            num_inference_steps=spec.infer_steps,
        )


def _require_finite(values: Tensor, name: str) -> None:
    # NaN and infinity survive a sum, which needs no second tensor.
    if not math.isfinite(values.sum(dtype=torch.float32).item()):
        logger.error("the %s hold NaN or infinity", name)
        raise JobError(ErrorCode.NOT_FINITE, NOT_FINITE)


def _placeholders(num_items: int) -> Iterator[Tensor]:
    for _ in range(num_items):
        yield torch.empty(0)
