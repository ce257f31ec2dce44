"""Denoising steps of one transformer on one device: our variants, and diffusers'."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ranks.device import Device
from ranks.families.wan21_i2v import ImageToVideo
from ranks.model.transformer import ShardTransformer
from ranks.parallel.ulysses import SequenceGroup
from ranks.sampling.attention_cache import AttentionCache, CacheSchedule
from ranks.sampling.denoise import Guidance, Predictor
from ranks.warm_up import warm_up
from tests.bench.device_rates import peak_gb, time_s
from tests.bench.random_models import Size, make_stock, make_transformer

NUM_TEXT_TOKENS = 512
NUM_IMAGE_TOKENS = 257
GUIDANCE_SCALE = 5.0

_KINDS = {
    "attention": ("attention", "flash", "fmha", "sdpa"),
    "linear": ("gemm", "nvjet", "xmma", "addmm", "aten::mm", "aten::bmm"),
}
"""Words in the names of kernels or CPU operators, by kind; attention first."""


class Steps:
    """A transformer with random weights and a job for it.

    Args:
        size: Size of the model and the latents.
        device: Runs it with its fastest attention kernel.
    """

    def __init__(self, size: Size, device: Device) -> None:
        self._size, self._device = size, device
        self._model = make_transformer(size, device.torch_device, device.model_dtype)
        self._stock = make_stock(self._model, size)
        config = size.config("transformer")
        num_latents, num_inputs = config["out_channels"], config["in_channels"]
        self._latents = self._draw(1, num_latents, *size.shape).cpu().float()
        self._first_frame = self._draw(1, num_inputs - num_latents, *size.shape).float()
        self._texts = [self._draw(1, NUM_TEXT_TOKENS, config["text_dim"]) for _ in range(2)]
        self._image = self._draw(1, NUM_IMAGE_TOKENS, config["image_dim"])
        self._timestep = torch.tensor(900)
        self._predicted: dict[str, Tensor] = {}

    def ours(self, *, is_fused: bool) -> dict[str, float]:
        """Return step time and peak memory of the product, and the time of its warm-up."""
        transformer = self._transformer(is_fused=is_fused)
        warm_up_s = 0.0
        if is_fused:
            small_clips = partial(
                warm_up, ImageToVideo(), transformer, self._device.torch_device, NUM_IMAGE_TOKENS
            )
            warm_up_s = time_s(self._device, small_clips, repeats=1, warm_ups=0)
        predictor = self._predictor(transformer)
        name = "fused" if is_fused else "plain"
        return self._measure(name, partial(self._predict, predictor)) | {"warm_up_s": warm_up_s}

    def stock(self) -> dict[str, float]:
        """Return step time and peak memory of diffusers' transformer with its default attention."""
        return self._measure("stock", self._predict_stock)

    def cached(self) -> dict[str, float]:
        """Return the time of a step that reuses cached attention, and the memory."""
        schedule = CacheSchedule(start=0, interval=4, end=4, num_inference_steps=4)
        transformer = self._transformer(is_fused=True)
        with AttentionCache(schedule) as cache:
            predictor = self._predictor(transformer, cache)
            self._predict(predictor)
            times = [
                time_s(self._device, partial(self._predict, predictor, step), 1, 0)
                for step in (1, 2)
            ]
            return {"step_s": min(times), "cache_gb": cache.num_bytes / 1e9}

    def split(self) -> dict[str, Any]:
        """Return the time that a step spends on attention, linear layers and the rest."""
        predictor = self._predictor(self._transformer(is_fused=True))
        activities = [ProfilerActivity.CPU]
        if self._device.kind == "cuda":
            activities.append(ProfilerActivity.CUDA)
        with profile(activities=activities) as profiler:
            self._predict(predictor)
            self._device.synchronize()
        return _shares(_times_by_kernel(profiler, is_cpu=self._device.kind == "cpu"))

    def differences(self) -> dict[str, float]:
        """Return the relative difference between our predictions and diffusers'."""
        stock = self._predicted["stock"]
        return {
            name: float((found - stock).norm() / stock.norm())
            for name, found in self._predicted.items()
            if name != "stock"
        }

    def _draw(self, *shape: int) -> Tensor:
        generator = torch.Generator().manual_seed(sum(shape))
        drawn = torch.randn(shape, generator=generator)
        return drawn.to(self._device.torch_device, self._device.model_dtype)

    def _transformer(self, *, is_fused: bool) -> ShardTransformer:
        kernels = self._device.choose_kernels() if is_fused else "plain"
        return ShardTransformer(self._model, self._device.attention_backend, kernels=kernels)

    def _predictor(
        self, transformer: ShardTransformer, cache: AttentionCache | None = None
    ) -> Predictor:
        conditions = {
            branch: transformer.condition(text, self._image)
            for branch, text in enumerate(self._texts)
        }
        num_tokens = transformer.num_tokens(self._size.shape)
        return Predictor(
            family=ImageToVideo(),
            transformer=transformer,
            condition=self._first_frame,
            guidance=Guidance(guidance_scale=GUIDANCE_SCALE, conditions=conditions, group=None),
            sequence=SequenceGroup(None, [num_tokens], 0),
            rope=transformer.rope_tables(self._size.shape, self._device.torch_device),
            timestep_rows=None,
            cache=cache,
        )

    def _predict(self, predictor: Predictor, step: int = 0) -> Tensor:
        return predictor.predict(step, self._timestep, self._latents)

    def _predict_stock(self) -> Tensor:
        """Do what the stock pipeline does in a step before its scheduler."""
        latents = self._latents.to(self._device.torch_device)
        inputs = torch.cat((latents, self._first_frame), dim=1).to(self._device.model_dtype)
        conditional, unconditional = (
            self._stock(
                hidden_states=inputs,
                timestep=self._timestep.to(inputs.device).expand(1),
                encoder_hidden_states=text,
                encoder_hidden_states_image=self._image,
                return_dict=False,
            )[0]
            for text in self._texts
        )
        guided: Tensor = unconditional + GUIDANCE_SCALE * (conditional - unconditional)
        return guided.to("cpu", torch.float32)

    def _measure(self, name: str, predict: Callable[[], Tensor]) -> dict[str, float]:
        """Return the median time of three steps after a warm-up, and the peak memory."""
        peak = peak_gb(self._device, lambda: self._predicted.update({name: predict()}))
        return {"step_s": time_s(self._device, predict, warm_ups=0), "peak_gb": peak}


def _times_by_kernel(profiler: profile, *, is_cpu: bool) -> dict[str, float]:
    """Return the seconds of each kernel; on the CPU, of each operator excluding its callees."""
    times: dict[str, float] = {}
    for event in profiler.key_averages():
        if is_cpu:
            taken_us = event.self_cpu_time_total
        else:
            # Operators are charged with the kernels that they launch, which are listed, too.
            is_kernel = event.device_type.name == "CUDA"
            taken_us = event.self_device_time_total if is_kernel else 0.0
        times[event.key] = times.get(event.key, 0.0) + taken_us / 1e6
    return times


def _shares(times: dict[str, float]) -> dict[str, Any]:
    shares = dict.fromkeys((*_KINDS, "rest"), 0.0)
    for name, taken_s in times.items():
        is_of = (kind for kind, marks in _KINDS.items() if any(m in name.lower() for m in marks))
        shares[next(is_of, "rest")] += taken_s
    longest = sorted(times.items(), key=lambda item: -item[1])[:25]
    return {f"{kind}_s": taken_s for kind, taken_s in shares.items()} | {"longest": dict(longest)}
