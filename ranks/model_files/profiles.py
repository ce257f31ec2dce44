"""What each family takes, with the defaults of its makers, and the profile of a model on disk."""

import hashlib

import msgspec
from msgspec import structs

from broker.wire.model_profile import Family, ModelProfile
from ranks.model_files.components import Component, ModelFiles

# Source: `generate.py` and `wan/configs/` of Wan2.1 and Wan2.2. For Wan2.1 I2V the API's own
# defaults, which clients have relied on from the start, take their place.
_PROFILES: dict[Family, ModelProfile] = {
    "wan2.1-i2v": ModelProfile(),
    "wan2.1-flf2v": ModelProfile(
        family="wan2.1-flf2v",
        last_image="required",
        infer_steps=50,
        guidance_scale=5.0,
        sample_shift=16.0,
    ),
    "wan2.2-i2v-a14b": ModelProfile(
        family="wan2.2-i2v-a14b",
        last_image="optional",
        has_second_guidance=True,
        infer_steps=40,
        guidance_scale=3.5,
    ),
    "wan2.2-ti2v-5b": ModelProfile(
        family="wan2.2-ti2v-5b",
        side_multiple_px=32,
        max_pixels=901_120,
        image_size="1280*704",
        token_side_px=32,
        frames_per_second=24,
        trained_frames=121,
        num_frames=121,
        infer_steps=50,
        guidance_scale=5.0,
    ),
}


def profile_of(files: ModelFiles, name: str) -> ModelProfile:
    """Return the profile of a model under the name that jobs give."""
    return structs.replace(
        _PROFILES[files.family],
        name=name,
        content_hash=content_hash(files),
        quantization=files.components["transformer"].quantization,
    )


def content_hash(files: ModelFiles) -> str:
    """Return what tells two models apart without reading their weights, in hexadecimal."""
    described = {part: _described(component) for part, component in files.components.items()}
    return hashlib.sha256(msgspec.json.encode(described, order="deterministic")).hexdigest()


def _described(component: Component) -> tuple[object, ...]:
    weights = sorted((name, weight.shape) for name, weight in component.weights.items())
    if component.quantization is None:
        return component.config, weights
    # A file's own 8-bit numbers differ from those that are rounded here.
    sources = [(name, component.weights[name]) for name in sorted(component.quantized)]
    rounded = [
        (name, weight.dtype, weight.scale and weight.scale.shape) for name, weight in sources
    ]
    return component.config, weights, component.quantization, rounded
