"""Denoising steps of one transformer on one device: our variants, and diffusers'."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from broker.wire.model_profile import EightBit
from ranks.device import Device
from ranks.families.wan21_i2v import ImageToVideo
from ranks.model.block import install_forward
from ranks.model.kernels import KernelForm, Kernels
from ranks.model.quantized_linear import install_8bit
from ranks.model.transformer import ShardTransformer
from ranks.model_files.quantization import SIDE_MULTIPLE
from ranks.parallel.ulysses import SequenceGroup, install_attention
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

Arguments = dict[str, tuple[Any, ...]]


class Steps:
    """A transformer with random weights and a job for it.

    Args:
        size: Size of the model and the latents.
        device: Runs it with the kernels that it names, as a rank does.
        form: Of the blocks' weights; None leaves them in the device's dtype.
    """

    def __init__(self, size: Size, device: Device, form: EightBit | None = None) -> None:
        self._size, self._device = size, device
        change = None if form is None else partial(_install_8bit, device, form)
        self._model = make_transformer(size, device.torch_device, device.model_dtype, change)
        config = size.config("transformer")
        num_latents, num_inputs = config["out_channels"], config["in_channels"]
        self._latents = self._draw(1, num_latents, *size.shape).float()
        self._first_frame = self._draw(1, num_inputs - num_latents, *size.shape).float()
        self._texts = [self._draw(1, NUM_TEXT_TOKENS, config["text_dim"]) for _ in range(2)]
        self._image = self._draw(1, NUM_IMAGE_TOKENS, config["image_dim"])
        self._timestep = torch.tensor(900)
        self._predicted: dict[str, Tensor] = {}

    def start(self, kernels: KernelForm | None = None) -> Predictor:
        """Warm up as a rank does; return what takes the steps."""
        transformer = self._transformer(kernels)
        warm_up(ImageToVideo(), transformer, self._device.torch_device, NUM_IMAGE_TOKENS)
        return self._predictor(transformer)

    def step(self, predictor: Predictor, name: str = "served") -> dict[str, float]:
        """Return the time of one step, and its peak memory."""
        return self._measure(name, partial(self._predict, predictor), repeats=1)

    def variant(self, kernels: KernelForm | None = None) -> dict[str, float]:
        """Return the time of a step after another one, and the peak memory of both."""
        predictor = self.start(kernels)
        return self._measure(kernels or "served", partial(self._predict, predictor), repeats=2)

    def stock(self) -> dict[str, float]:
        """Do so with diffusers' transformer and its default attention."""
        predict = partial(self._predict_stock, make_stock(self._model, self._size))
        return self._measure("stock", predict, repeats=2)

    def one_branch(self) -> dict[str, float]:
        """Do so without guidance."""
        predictor = self._predictor(self._transformer(), num_branches=1)
        return self._measure("one branch", partial(self._predict, predictor), repeats=2)

    def cached(self, num_branches: int = 2) -> dict[str, float]:
        """Return the time of a step that keeps its attention, and of one that reuses it."""
        schedule = CacheSchedule(start=0, interval=4, end=4, num_inference_steps=4)
        with AttentionCache(schedule) as cache:
            predictor = self._predictor(self._transformer(), cache, num_branches)
            kept_s, *reused_s = (
                time_s(self._device, partial(self._predict, predictor, step), 1, 0)
                for step in range(3)
            )
            return {
                "keeping_s": kept_s,
                "step_s": min(reused_s),
                "cache_gb": cache.num_bytes / 1e9,
                "branches": num_branches,
            }

    def split(self) -> dict[str, Any]:
        """Return the time that a step spends on attention, linear layers and the rest."""
        predictor = self._predictor(self._transformer())
        self._predict(predictor)
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
            if name not in ("stock", "one branch")
        }

    def kernel_arguments(self) -> Arguments:
        """Return what a block passes to each of its element-wise functions."""
        kept: Arguments = {}
        recording = Kernels("plain")
        for name, function in vars(recording).items():
            setattr(recording, name, partial(_record, kept, name, function))
        transformer = self._transformer("plain")
        install_forward(self._model, recording)
        install_attention(self._model, self._device.attention_backend, recording)
        self._predict(self._predictor(transformer, num_branches=1))
        return kept

    def _draw(self, *shape: int) -> Tensor:
        generator = torch.Generator().manual_seed(sum(shape))
        drawn = torch.randn(shape, generator=generator)
        return drawn.to(self._device.torch_device, self._device.model_dtype)

    def _transformer(self, kernels: KernelForm | None = None) -> ShardTransformer:
        form = kernels or self._device.kernels
        return ShardTransformer(self._model, self._device.attention_backend, kernels=form)

    def _predictor(
        self,
        transformer: ShardTransformer,
        cache: AttentionCache | None = None,
        num_branches: int = 2,
    ) -> Predictor:
        conditions = {
            branch: transformer.condition(text, self._image)
            for branch, text in enumerate(self._texts[:num_branches])
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

    def _predict_stock(self, stock: WanTransformer3DModel) -> Tensor:
        """Do what the stock pipeline does in a step before its scheduler."""
        inputs = torch.cat((self._latents, self._first_frame), dim=1).to(self._device.model_dtype)
        conditional, unconditional = (
            stock(
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

    def _measure(self, name: str, predict: Callable[[], Tensor], repeats: int) -> dict[str, float]:
        """Return the time of the last of some steps, and the peak memory of all."""
        times_s: list[float] = []

        def take() -> None:
            for _ in range(repeats):
                times_s.append(time_s(self._device, self._keep(name, predict), 1, 0))

        peak = peak_gb(self._device, take)
        return {"step_s": times_s[-1], "peak_gb": peak}

    def _keep(self, name: str, predict: Callable[[], Tensor]) -> Callable[[], None]:
        return lambda: self._predicted.update({name: predict().cpu()})


def _install_8bit(device: Device, form: EightBit, model: WanTransformer3DModel) -> None:
    names = [
        f"blocks.{name}.weight"
        for name, module in model.blocks.named_modules()
        if isinstance(module, nn.Linear)
        and not module.in_features % SIDE_MULTIPLE
        and not module.out_features % SIDE_MULTIPLE
    ]
    install_8bit(model, names, form, device.choose_multiply(form))


def _record(kept: Arguments, name: str, function: Callable[..., Any], *args: Any) -> Any:
    kept[name] = args
    return function(*args)


def _times_by_kernel(profiler: profile, *, is_cpu: bool) -> dict[str, float]:
    """Return the seconds of each kernel; on the CPU, of each operator excluding its callees."""
    times: dict[str, float] = {}
    for event in profiler.key_averages():
        if is_cpu:
            taken_us = event.self_cpu_time_total
        else:
            # Operators are charged with the kernels that they launch, which are listed, too.
            is_kernel = event.device_type.name == "CUDA" and not event.is_user_annotation
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
