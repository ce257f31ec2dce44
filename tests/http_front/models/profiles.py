"""Profiles of models that differ from the default one in all that the front asks of a profile."""

from broker.wire.lora import KnownLora
from broker.wire.model_profile import ModelProfile, StepCacheOffer

WAN21 = ModelProfile()
SMALL = ModelProfile(
    name="Wan2.2-TI2V-5B",
    family="wan2.2-ti2v-5b",
    side_multiple_px=32,
    max_pixels=901_120,
    image_size="1280*704",
    token_side_px=32,
    frames_per_second=24,
    num_frames=121,
    trained_frames=121,
    infer_steps=50,
    guidance_scale=5.0,
)
TWO_EXPERTS = ModelProfile(
    name="Wan2.2-I2V-A14B",
    family="wan2.2-i2v-a14b",
    last_image="optional",
    has_second_guidance=True,
    step_caches=(StepCacheOffer(name="easycache", threshold=0.05),),
    infer_steps=40,
    guidance_scale=3.5,
)
FIRST_AND_LAST = ModelProfile(
    name="Wan2.1-FLF2V-14B",
    family="wan2.1-flf2v",
    last_image="required",
    sample_shift=16.0,
)
FOUR_STEPS = ModelProfile(
    name="four-steps",
    is_distilled=True,
    min_steps=1,
    max_steps=8,
    infer_steps=4,
    guidance_scale=1.0,
    max_guidance_scale=1.0,
    max_shift=10.0,
    solvers=("unipc",),
    step_caches=(),
)
WITH_LORAS = ModelProfile(
    name="with-loras",
    loras=tuple(
        KnownLora(name=name, hashes=(name[0] * 64,))
        for name in ("anime", "board", "crayon", "dust", "etching")
    ),
)
