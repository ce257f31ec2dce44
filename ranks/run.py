"""One run of a job on one rank: its stages, and the boundaries at which all ranks meet."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor

from broker.wire.errors import ErrorCode
from broker.wire.group_shape import step_work
from broker.wire.job import JobSpec, Stage
from broker.wire.lora import LoraHashes
from ranks.control import NextStep
from ranks.device import to_host
from ranks.engine import Engine
from ranks.errors import JobError
from ranks.kept_encodings import ImageEncoding, ImageKey
from ranks.model.conditioning import draw_noise, embed_images, image_tensor, open_image
from ranks.model.vae import (
    GivenClip,
    decode_chunks,
    encode_chunks,
    finish_encoding,
    num_latent_frames,
)
from ranks.sampling.attention_cache import AttentionCache, CacheSchedule
from ranks.sampling.checkpoint import State, load_state
from ranks.sampling.denoise import Denoiser
from ranks.sampling.phases import Phases
from ranks.sampling.residual_cache import ListedStepCache
from ranks.sampling.solver import Solver, make_solver
from ranks.sampling.step_cache import StepCache
from ranks.sampling.step_parts import StepParts
from ranks.step_caches import make_step_cache, phases_of
from ranks.step_predictors import Conditioning, StepPredictors

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
    last_image: Path | None = None
    """Last frame of the video, for models that take one."""
    lora_hashes: LoraHashes = field(default_factory=dict)
    """Of the job's LoRAs when it was accepted."""
    resume_from: Path | None = None
    """Checkpoint to resume from."""


class Observer(Protocol):
    """Receives the progress of a run."""

    def enter(self, stage: Stage) -> None:
        """Called when a stage begins."""

    def finish_step(self, num_steps: int) -> None:
        """Called after each of the `num_steps` steps of the stage."""

    def skip_steps(self, steps: Sequence[int]) -> None:
        """Called with all the denoising steps that are skipped, as far as they are known."""

    def finish_part(self, done: float, num_steps: int) -> None:
        """Called within a long denoising step; `done` of it is done, from 0 to 1."""

    def show(self, latents: Tensor) -> None:
        """Called on rank 0 with the predicted clean latents `[1, C, T, H, W]`, float32, CPU."""

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
        self._family = engine.family
        self._rank = engine.world.rank
        self._job = job
        self._spec = job.spec
        self._observer = observer
        self._layouts = engine.layouts(job.spec)
        # Every rank creates them now, in the same order.
        engine.world.groups(self._layouts.guided)
        if job.spec.is_guided and job.spec.guidance_end < 1.0:
            engine.world.groups(self._layouts.unguided)
        self._length = job.spec.num_model_frames
        self._parts = StepParts(engine.device, self._finish_part)
        self._step_work = step_work(job.spec, engine.shape)

    def frames(self) -> Iterator[Tensor]:
        """Make the video.

        Yields:
            On rank 0, frames `[1, 3, T, H, W]` from -1 to 1, in order. Nothing on other ranks.

        Raises:
            RunInterrupted: On every rank at the same boundary, if the run ends early.
            JobError: If the job fails.
        """
        self._use_loras()
        self._engine.set_weight_sharding(self._spec)
        try:
            conditioning = self._encode()
            latents = self._denoise(conditioning)
            self._engine.release_hosted()
            yield from self._decode(latents)
        finally:
            self._engine.release_hosted()

    def _use_loras(self) -> None:
        """Give the transformers the LoRAs of the job; a job without any takes out all others."""
        loras = self._engine.loras
        if not (loras.is_offered or self._spec.loras):
            return
        self._observer.enter(Stage.ENCODE)
        loras.use(self._spec.loras, self._job.lora_hashes)
        # Here a rank that could not is found out: it would not take part in what comes next.
        self._engine.control.meet()

    def _encode(self) -> Conditioning:
        self._observer.enter(Stage.ENCODE)
        images = self._open_images()
        clip = self._clip(images)
        key = self._image_key()
        kept = self._engine.encodings.find(key)
        prompts = self._prompts()
        num_items = len(prompts) + (0 if kept else 1 + clip.num_chunks)
        prompt_embeds = self._encode_prompts(prompts, num_items)
        if kept:
            logger.info("the image is already encoded")
            encoding = kept.on(clip.first.device)
        else:
            encoding = self._encode_images(images, clip, num_items)
            self._engine.encodings.keep(key, encoding)
        return Conditioning(
            prompt_embeds=prompt_embeds,
            image_embeds=encoding.image_embeds,
            frames=self._family.condition(encoding.latents, has_last=len(images) > 1),
        )

    def _image_key(self) -> ImageKey:
        job, spec = self._job, self._spec
        return ImageKey(
            image=job.image.name,
            last_image=None if job.last_image is None else job.last_image.name,
            width_px=spec.width_px,
            height_px=spec.height_px,
            num_frames=self._length,
            vae_parallel=spec.vae_parallel,
            vae_dtype=str(self._models.vae.dtype),
        )

    def _clip(self, images: list[Image.Image]) -> GivenClip:
        vae = self._models.vae
        pixels = [
            image_tensor(image).to(self._engine.device.torch_device, vae.dtype) for image in images
        ]
        return self._family.clip(pixels[0], pixels[1] if len(pixels) > 1 else None, self._length)

    def _encode_images(
        self, images: list[Image.Image], clip: GivenClip, num_items: int
    ) -> ImageEncoding:
        image_embeds = embed_images(self._models, images[: self._family.num_embedded_images])
        self._engine.release_hosted()
        self._finish_encoding(num_items)
        latents = self._encode_clip(clip, num_items)
        return ImageEncoding(image_embeds=image_embeds, latents=latents)

    def _open_images(self) -> list[Image.Image]:
        """Return the first image, and the last one if the job gives it."""
        paths = [self._job.image]
        profile = self._engine.shape.model
        if self._job.last_image is None and profile.last_image == "required":
            raise JobError(ErrorCode.IMAGE_INVALID, f"{profile.name} needs last_image, too")
        if self._job.last_image is not None:
            if profile.last_image == "none":
                raise JobError(ErrorCode.IMAGE_INVALID, f"{profile.name} takes no last_image")
            paths.append(self._job.last_image)
        return [open_image(path, self._spec.width_px, self._spec.height_px) for path in paths]

    def _prompts(self) -> list[str]:
        """Return the prompt of every guidance branch.

        Every rank encodes both branches, even if it computes one: with sharded weights, no rank can
        encode a prompt alone.
        """
        negative = [self._spec.negative_prompt or ""] if self._spec.is_guided else []
        return [self._spec.prompt, *negative]

    def _encode_prompts(self, prompts: Sequence[str], num_items: int) -> list[Tensor]:
        """Return the embedding `[1, 512, C]` of each prompt."""
        prompt_embeds = []
        try:
            for prompt in prompts:
                prompt_embeds.append(self._engine.prompts.encode(prompt))
                self._finish_encoding(num_items)
        finally:
            self._engine.release_text_encoder()
        return prompt_embeds

    def _encode_clip(self, clip: GivenClip, num_items: int) -> Tensor:
        """Return the encoded clip `[1, C, T, H, W]`, the same on every rank."""
        vae = self._models.vae
        chunks = []
        with self._engine.vae_split(self._spec) as split:
            is_here = split is not None or self._rank == 0
            work = encode_chunks(vae, clip, split)
            for chunk in work if is_here else _placeholders(clip.num_chunks):
                chunks.append(chunk)
                self._finish_encoding(num_items)
        if is_here:
            latents = finish_encoding(vae, chunks).contiguous()
        else:
            batch, channels, _, height, width = self._latent_shape
            shape = (batch, channels, clip.num_chunks, height, width)
            latents = torch.empty(shape, device=clip.first.device)
        if split is None and self._engine.world.world_size > 1:
            dist.broadcast(latents, src=0)
        return latents

    def _denoise(self, conditioning: Conditioning) -> Tensor:
        """Return the clean latents `[1, C, T, H, W]`, the same on every rank up to rounding."""
        self._observer.enter(Stage.DENOISE)
        solver = make_solver(self._spec.solver, self._spec.infer_steps, self._spec.sample_shift)
        phases = phases_of(self._engine, self._spec, solver)
        step_cache = make_step_cache(self._engine, self._spec, phases, solver)
        denoiser = self._start_denoiser(solver, step_cache)
        schedule = self._cache_schedule(phases)
        keep_given = partial(self._family.keep_given, condition=conditioning.frames)
        with ExitStack() as stack:
            cache = None if schedule is None else stack.enter_context(AttentionCache(schedule))
            residuals = None
            if isinstance(step_cache, ListedStepCache):
                residuals = step_cache.residuals
                stack.callback(residuals.clear)
            predictors = StepPredictors(
                self._engine,
                self._spec,
                self._layouts,
                phases,
                conditioning,
                self._latent_shape,
                cache,
                residuals,
                self._parts,
            )
            while not denoiser.is_done:
                self._advance(denoiser, predictors)
                if self._rank == 0:
                    self._observer.show(to_host(keep_given(denoiser.solver.estimate())))
                self._finish_step(denoiser, schedule)
        return keep_given(denoiser.latents)

    def _advance(self, denoiser: Denoiser, predictors: StepPredictors) -> None:
        predictor = predictors.at(denoiser.step, denoiser.timestep)
        is_computed = not denoiser.is_skipping
        began_s = time.monotonic()
        denoiser.advance(predictor)
        # No bad preview or state. A rank that alone finds some makes the others leave at their next
        # boundary. Here the host waits for the step: else it would queue the whole loop, and a
        # cancel would come too late.
        _require_finite(denoiser.latents, f"latents after step {denoiser.step}")
        if is_computed:
            self._engine.pace.learn(self._step_work, time.monotonic() - began_s)
        self._step_work = step_work(self._spec, self._engine.shape, denoiser.step)

    def _finish_step(self, denoiser: Denoiser, schedule: CacheSchedule | None) -> None:
        is_skipping = denoiser.wants_to_skip()
        denoiser.skip_next(is_skipping)  # a checkpoint, which rank 0 saves, holds its decision
        if _can_begin_at(denoiser, schedule):
            self._observer.offer_state(denoiser.step, denoiser.state)
        self._observer.skip_steps(denoiser.skipped_steps)
        denoiser.skip_next(self._finish_item(self._spec.infer_steps, is_skipping=is_skipping))

    def _start_denoiser(self, solver: Solver, step_cache: StepCache | None) -> Denoiser:
        spec = self._spec
        assert spec.seed is not None  # the front draws one if the client names none
        noise = draw_noise(spec.seed, self._latent_shape).to(self._engine.device.torch_device)
        denoiser = Denoiser(solver, noise, step_cache)
        if self._job.resume_from is not None:
            denoiser.restore(load_state(self._job.resume_from))
            logger.info("goes on after step %d", denoiser.step)
            self._observer.skip_steps(denoiser.skipped_steps)
            for _ in range(denoiser.step):
                self._observer.finish_step(spec.infer_steps)
        return denoiser

    def _decode(self, latents: Tensor) -> Iterator[Tensor]:
        self._observer.enter(Stage.DECODE)
        latents = latents.contiguous()
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

    def _finish_encoding(self, num_items: int) -> None:
        # The host must not run ahead: a run that is cancelled would go on until the device is done.
        self._engine.device.synchronize()
        self._finish_item(num_items)

    def _finish_item(self, num_items: int, *, is_skipping: bool = False) -> bool:
        """Meet the other ranks; return whether rank 0 skips the next step."""
        self._observer.finish_step(num_items)
        return self._meet(is_skipping=is_skipping)

    def _finish_part(self, done: float) -> None:
        if done:
            self._observer.finish_part(done, self._spec.infer_steps)
        self._meet()

    def _meet(self, *, is_skipping: bool = False) -> bool:
        num_parts = self._engine.pace.num_parts(self._step_work)
        agreed = self._engine.control.meet(NextStep(num_parts, is_skipping))
        self._parts.num_parts = agreed.num_parts
        return agreed.is_skipped

    @property
    def _latent_shape(self) -> tuple[int, int, int, int, int]:
        config = self._models.vae.config
        return (
            1,
            config.z_dim,
            num_latent_frames(self._length),
            self._spec.height_px // config.scale_factor_spatial,
            self._spec.width_px // config.scale_factor_spatial,
        )

    def _cache_schedule(self, phases: Phases) -> CacheSchedule | None:
        spec = self._spec
        if not spec.use_attentioncache:
            return None
        return CacheSchedule(
            start=spec.start_step,
            interval=spec.attentioncache_interval,
            end=spec.end_step,
            num_inference_steps=spec.infer_steps,
            phase_starts=phases.starts,
        )


def _can_begin_at(denoiser: Denoiser, schedule: CacheSchedule | None) -> bool:
    """Return whether a run can be resumed before the next step, with all that it would reuse."""
    step_cache = denoiser.step_cache
    is_kept = step_cache is None or step_cache.can_begin_here
    return is_kept and (schedule is None or schedule.can_begin_at(denoiser.step))


def _require_finite(values: Tensor, name: str) -> None:
    # NaN and infinity survive a sum, which needs no second tensor.
    if not math.isfinite(values.sum(dtype=torch.float32).item()):
        logger.error("the %s hold NaN or infinity", name)
        raise JobError(ErrorCode.NOT_FINITE, NOT_FINITE)


def _placeholders(num_items: int) -> Iterator[Tensor]:
    for _ in range(num_items):
        yield torch.empty(0)
