"""One denoising step in each way that the engine benchmark compares."""

from pathlib import Path
from typing import Protocol

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor

from ranks.control import Control
from ranks.families.wan21_i2v import ImageToVideo
from ranks.model.conditioning import draw_noise
from ranks.model.transformer import LatentShape, ShardTransformer
from ranks.model.weights import fill_transformer, meta_transformer
from ranks.model_files.diffusers_folder import read_component
from ranks.parallel.layout import Layout, split_evenly
from ranks.parallel.process_group import World
from ranks.parallel.ulysses import SequenceGroup
from ranks.sampling.denoise import Denoiser, Guidance, Predictor
from ranks.sampling.solver import make_solver, unipc_scheduler
from tests.bench.context_parallel import parallelise

CPU = torch.device("cpu")
GUIDANCE_SCALE = 5.0
NUM_STEPS = 100
"""Steps of the schedule; only the first few are measured."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A transformer and the inputs to denoise with it."""

    transformer: str
    shape: LatentShape

    def draw(self, num_channels: int, seed: int) -> Tensor:
        """Return random latents, the same on every rank."""
        return draw_noise(seed, (1, num_channels, *self.shape))

    def texts(self, width: int) -> list[Tensor]:
        """Return embedded prompts of both branches, conditional first."""
        return [draw_noise(seed, (1, 512, width)) for seed in (3, 4)]

    def image(self, width: int) -> Tensor:
        return draw_noise(5, (1, 257, width))


class Stepper(Protocol):
    """A job in progress."""

    @property
    def latents(self) -> Tensor:
        """The latents after the latest step."""

    def step(self) -> None:
        pass


class Ours:
    """The product's denoising loop, with its synchronisation of all ranks after each step."""

    def __init__(
        self, job: Job, transformer: ShardTransformer, world: World, layout: Layout
    ) -> None:
        config = transformer.model.config
        groups = world.groups(layout)
        embeds = [(text, job.image(config.image_dim)) for text in job.texts(config.text_dim)]
        branches = [0, 1] if layout.cfg_size == 1 else [layout.branch(world.rank)]
        sizes = split_evenly(transformer.num_tokens(job.shape), layout.ulysses_size)
        self._predictor = Predictor(
            family=ImageToVideo(),
            transformer=transformer,
            condition=job.draw(config.in_channels - config.out_channels, 1),
            guidance=Guidance(
                guidance_scale=GUIDANCE_SCALE,
                conditions={branch: transformer.condition(*embeds[branch]) for branch in branches},
                group=groups.cfg,
            ),
            sequence=SequenceGroup(groups.ulysses, sizes, layout.shard(world.rank)),
            rope=transformer.rope_tables(job.shape, CPU),
            timestep_rows=None,
            cache=None,
        )
        self._control = Control(world.rank, world.control_group)
        self._denoiser = Denoiser(
            make_solver("unipc", NUM_STEPS, 5.0), job.draw(config.out_channels, 2)
        )

    @property
    def latents(self) -> Tensor:
        """The latents after the latest step."""
        return self._denoiser.latents

    def step(self) -> None:
        self._denoiser.advance(self._predictor)
        self._control.meet()


class Stock:
    """A step of diffusers' `WanImageToVideoPipeline`, on one rank or on all."""

    def __init__(self, job: Job) -> None:
        component = read_component(Path(job.transformer))
        self._model = meta_transformer(component, torch.float32)
        fill_transformer(self._model, component, CPU)
        if dist.get_world_size() > 1:
            parallelise(self._model)
        config = self._model.config
        self._condition = job.draw(config.in_channels - config.out_channels, 1)
        self._texts, self._image = job.texts(config.text_dim), job.image(config.image_dim)
        self._scheduler = unipc_scheduler(NUM_STEPS, 5.0)
        self._step = 0
        self.latents = job.draw(config.out_channels, 2)

    def step(self) -> None:
        """Do the next step."""
        timestep = self._scheduler.timesteps[self._step]
        inputs = torch.cat([self.latents, self._condition], dim=1)
        conditional, unconditional = (
            self._model(
                hidden_states=inputs,
                timestep=timestep.expand(1),
                encoder_hidden_states=text,
                encoder_hidden_states_image=self._image,
                return_dict=False,
            )[0]
            for text in self._texts
        )
        guided = unconditional + GUIDANCE_SCALE * (conditional - unconditional)
        self.latents = self._scheduler.step(guided, timestep, self.latents, return_dict=False)[0]
        self._step += 1


def agree(steppers: list[Stepper]) -> None:
    """Check that all ways have computed the same latents."""
    for stepper in steppers[1:]:
        torch.testing.assert_close(stepper.latents, steppers[0].latents, rtol=0, atol=1e-3)
