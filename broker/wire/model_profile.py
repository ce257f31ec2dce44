"""What a model takes: the limits and the defaults of the jobs that name it."""

from typing import Literal, get_args

import msgspec

from broker.wire.job import JobSpec, ModelName, Solver, StepCacheName
from broker.wire.lora import KnownLora

Family = Literal["wan2.1-i2v", "wan2.1-flf2v", "wan2.2-i2v-a14b", "wan2.2-ti2v-5b"]

EightBit = Literal["fp8", "int8"]
"""Forms of 8-bit numbers that matrices are multiplied in: E4M3, and whole numbers."""

Attention = Literal["exact", "sage"]
"""What computes attention: exact kernels, or SageAttention, which rounds to 8 bits."""


ImageView = Literal["official", "folder"]
"""What the image encoder sees of a picture: the whole, squeezed to a square, as the makers' code
does; or what the model's folder states."""


class StepCacheOffer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A step cache that a model offers, because numbers for it are published or none are needed."""

    name: StepCacheName
    threshold: float
    """The default of `step_cache_threshold`."""


class ModelProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the server needs to know of a loaded model; the defaults are those of Wan2.1 I2V."""

    name: ModelName = "Wan2.1-I2V-14B-720P"
    """By which jobs name it."""
    family: Family = "wan2.1-i2v"
    content_hash: str = ""
    """SHA-256 in hexadecimal of its configs and its weights' names and shapes."""
    quantization: EightBit | None = None
    """Form of the 8-bit linears in the transformer's blocks; None if it has none."""
    attention: Attention = "exact"
    """Of the transformer's tokens to each other."""

    last_image: Literal["none", "optional", "required"] = "none"
    """Whether a job may or must give the video's last frame."""
    has_second_guidance: bool = False
    """Whether `guidance_scale_2` applies to it."""
    image_view: ImageView | None = None
    """None if the model has no image encoder."""
    is_distilled: bool = False
    """Whether it makes a video in a few steps and without guidance."""

    is_demo: bool = False
    """Whether it is the miniature model of `--demo`, whose videos are blurred."""

    usual_negative_prompt: str = (
        "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，"  # noqa: RUF001
        "低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，"  # noqa: RUF001
        "毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"  # noqa: RUF001
    )
    """What its makers use; jobs have it only if they say so.

    Source:
        Wan2.1 `wan/configs/shared_config.py`, `sample_neg_prompt`.
    """

    side_multiple_px: int = 16
    max_pixels: int = 921_600
    image_size: str = "1280*720"
    """The default."""
    token_side_px: int = 16
    """Pixels of a token's side: of the VAE's latents and of the transformer's patches together."""
    frames_per_second: int = 16
    min_frames: int = 24
    max_frames: int = 121
    trained_frames: int = 81
    """More frames are allowed, with a warning."""
    num_frames: int = 81
    """The default."""

    min_steps: int = 20
    max_steps: int = 100
    infer_steps: int = 30
    """The default."""
    min_guidance_scale: float = 1.0
    max_guidance_scale: float = 20.0
    guidance_scale: float = 3.0
    """The default."""
    guidance_scale_2: float | None = None
    """The default; None if it is the value of `guidance_scale`."""
    max_shift: float = 100.0
    sample_shift: float = 5.0
    """The default."""
    solvers: tuple[Solver, ...] = get_args(Solver)
    sample_solver: Solver = "unipc"
    """The default."""
    step_caches: tuple[StepCacheOffer, ...] = (
        StepCacheOffer(name="easycache", threshold=0.05),
        StepCacheOffer(name="magcache", threshold=0.24),
        StepCacheOffer(name="teacache", threshold=0.2),
    )
    """None for models of a few steps, whose steps all differ."""

    def step_cache_threshold(self, spec: JobSpec) -> float | None:
        """Return the threshold of a job's step cache; None without one that is offered."""
        for offer in self.step_caches:
            if offer.name == spec.step_cache:
                wanted = spec.step_cache_threshold
                return offer.threshold if wanted is None else wanted
        return None

    loras: tuple[KnownLora, ...] = ()
    """Those that jobs may take."""
    merged_loras: tuple[KnownLora, ...] = ()
    """Those that are part of the model."""
