"""What each way to compute less saves, against the plain run of the same job in the same call.

A variant is a row. All run in one process on one thread. Processor time is hardly affected by other
processes. The weights are random, so the time embedding of two steps has little in common, and
TeaCache skips nothing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import torch
from torch import Tensor

from broker.wire.model_profile import ModelProfile
from ranks.device import open_device
from ranks.families.wan21_i2v import ImageToVideo
from ranks.model.transformer import ShardTransformer
from ranks.model.weights import load_transformer
from ranks.model_files.diffusers_folder import read_component
from ranks.parallel.ulysses import SequenceGroup
from ranks.sampling.denoise import Denoiser, Guidance, Predictor
from ranks.sampling.easycache import EasyCache
from ranks.sampling.phases import Phases
from ranks.sampling.published_numbers import (
    MAGCACHE_A14B,
    MAGCACHE_I2V_480P,
    MAGCACHE_I2V_720P,
    MAGCACHE_TI2V_5B,
    TEACACHE_I2V_720P,
)
from ranks.sampling.residual_cache import ListedStepCache
from ranks.sampling.skip_lists import MagCacheNumbers, magcache_steps, teacache_steps
from ranks.sampling.solver import Solver, make_solver
from ranks.sampling.step_cache import StepCache
from tests.bench.engine_steps import CPU, GUIDANCE_SCALE, Job
from tests.bench.larger_model import make_larger_transformer

SHAPE = (3, 16, 16)
NUM_STEPS = 40
HIGH = 0.2
"""A threshold at which EasyCache skips steps of a model whose weights are random."""
_THRESHOLDS = {offer.name: offer.threshold for offer in ModelProfile().step_caches}


class Saving(msgspec.Struct, frozen=True, kw_only=True):
    """One variant."""

    processor_s: float
    num_passes: int
    """Forward passes of the transformer; two for a guided step."""
    num_steps: int
    """Steps computed."""
    psnr_db: float | None
    """Of the latents against those of the plain run, whose range is the peak; None if equal."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How a run saves; by default it does not."""

    guidance_end: int | None = None
    make_cache: Callable[["Bench", Phases], StepCache | None] = lambda bench, phases: None


class Bench:
    """The larger transformer and a job for it."""

    def __init__(self, folder: Path) -> None:
        make_larger_transformer(folder)
        component = read_component(folder)
        self.transformer: ShardTransformer = load_transformer(
            component, open_device("cpu", 0, 1), None
        )
        self._job = Job(transformer=str(folder), shape=SHAPE)

    @property
    def solver(self) -> Solver:
        return make_solver("unipc", NUM_STEPS, 5.0)

    def run(self, variant: Variant) -> tuple[Tensor, Saving]:
        """Return the latents, and what was computed for them."""
        phases = Phases(num_steps=NUM_STEPS, guidance_end=variant.guidance_end)
        begun_s = time.process_time()
        cache = variant.make_cache(self, phases)
        config = self.transformer.model.config
        denoiser = Denoiser(self.solver, self._job.draw(config.out_channels, 2), cache)
        predictors = {is_guided: self._predictor(is_guided, cache) for is_guided in (True, False)}
        num_steps = num_passes = 0
        while not denoiser.is_done:
            is_guided = phases.is_guided(denoiser.step)
            if cache is None or not cache.is_skipping:
                num_steps += 1
                num_passes += 2 if is_guided else 1
            denoiser.advance(predictors[is_guided])
            denoiser.skip_next(denoiser.wants_to_skip())
        return denoiser.latents, Saving(
            processor_s=time.process_time() - begun_s,
            num_passes=num_passes,
            num_steps=num_steps,
            psnr_db=None,
        )

    def _predictor(self, is_guided: bool, cache: StepCache | None) -> Predictor:
        transformer, job = self.transformer, self._job
        config = transformer.model.config
        texts, image = job.texts(config.text_dim), job.image(config.image_dim)
        return Predictor(
            family=ImageToVideo(),
            transformer=transformer,
            condition=job.draw(config.in_channels - config.out_channels, 1),
            guidance=Guidance(
                guidance_scale=GUIDANCE_SCALE,
                conditions={
                    branch: transformer.condition(texts[branch], image)
                    for branch in ((0, 1) if is_guided else (0,))
                },
                group=None,
            ),
            sequence=SequenceGroup(None, [transformer.num_tokens(SHAPE)], 0),
            rope=transformer.rope_tables(SHAPE, CPU),
            timestep_rows=None,
            cache=None,
            residuals=cache.residuals if isinstance(cache, ListedStepCache) else None,
        )


def _easycache(threshold: float) -> Callable[[Bench, Phases], StepCache]:
    return lambda bench, phases: EasyCache(phases, threshold)


def _magcache(bench: Bench, phases: Phases) -> StepCache:
    threshold = _THRESHOLDS["magcache"]
    return ListedStepCache(phases, magcache_steps(MAGCACHE_I2V_720P, threshold, phases))


def _teacache(bench: Bench, phases: Phases) -> StepCache:
    solver = bench.solver
    modulations = [bench.transformer.modulation(solver.timestep(n)) for n in range(NUM_STEPS)]
    threshold = _THRESHOLDS["teacache"]
    return ListedStepCache(
        phases, teacache_steps(TEACACHE_I2V_720P, threshold, phases, modulations)
    )


VARIANTS = {
    "plain": Variant(),
    "EasyCache": Variant(make_cache=_easycache(_THRESHOLDS["easycache"])),
    f"EasyCache at {HIGH:g}": Variant(make_cache=_easycache(HIGH)),
    "MagCache": Variant(make_cache=_magcache),
    "TeaCache": Variant(make_cache=_teacache),
    "guidance_end 0.5": Variant(guidance_end=NUM_STEPS // 2),
}


@torch.inference_mode()
def measure_savings() -> dict[str, Saving]:
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        # One step, to warm up.
        bench.run(Variant(make_cache=lambda bench, phases: ListedStepCache(phases, range(1, 40))))
        runs = {name: bench.run(variant) for name, variant in VARIANTS.items()}
    plain, _ = runs["plain"]
    return {
        name: msgspec.structs.replace(saving, psnr_db=_psnr_db(latents, plain))
        for name, (latents, saving) in runs.items()
    }


def _psnr_db(found: Tensor, plain: Tensor) -> float | None:
    error = float((found - plain).square().mean())
    peak = float(plain.max() - plain.min())
    return None if error == 0.0 else float(10 * torch.tensor(peak**2 / error).log10())


def print_savings(savings: dict[str, Saving]) -> None:
    print(f"\n{'larger, 40 steps':18} {'processor':>16} {'steps':>6} {'passes':>7} {'PSNR':>9}")
    for name, saving in savings.items():
        share = saving.processor_s / savings["plain"].processor_s
        psnr = "equal" if saving.psnr_db is None else f"{saving.psnr_db:.1f} dB"
        print(
            f"{name:18} {saving.processor_s:8.1f} s, {share:4.0%} {saving.num_steps:6} "
            f"{saving.num_passes:7} {psnr:>9}"
        )
    _print_counts()


def _print_counts() -> None:
    """Print how many steps MagCache skips; what the others skip depends on weights and latents."""
    counted: list[tuple[str, MagCacheNumbers, float, Phases]] = [
        ("Wan2.1 I2V 480P", MAGCACHE_I2V_480P, 0.24, Phases(num_steps=40)),
        ("Wan2.1 I2V 720P", MAGCACHE_I2V_720P, 0.24, Phases(num_steps=40)),
        ("Wan2.2 I2V-A14B", MAGCACHE_A14B, 0.06, Phases(num_steps=40, boundary=15)),
        ("Wan2.2 TI2V-5B", MAGCACHE_TI2V_5B, 0.06, Phases(num_steps=50)),
    ]
    print("\nMagCache, by count, at the default threshold")
    for name, numbers, threshold, phases in counted:
        num_skipped = len(magcache_steps(numbers, threshold, phases))
        print(f"{name:18} {threshold:5} {num_skipped} of {phases.num_steps} steps skipped")
