"""What each family takes, with the defaults of its makers, and the profile of a model on disk."""

import hashlib

import msgspec
from msgspec import structs

from broker.wire.model_profile import Attention, Family, ModelProfile, StepCacheOffer
from ranks.model_files.components import Component, ModelFiles
from ranks.model_files.distilled import distilled

# Thresholds of the READMEs of EasyCache and MagCache4Wan2.2. TeaCache's makers have published no
# numbers for Wan2.2, and neither they nor MagCache's for FLF2V.
_EASYCACHE = StepCacheOffer(name="easycache", threshold=0.05)
_MAGCACHE_OF_WAN22 = StepCacheOffer(name="magcache", threshold=0.06)

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
        step_caches=(_EASYCACHE,),
    ),
    "wan2.2-i2v-a14b": ModelProfile(
        family="wan2.2-i2v-a14b",
        last_image="optional",
        has_second_guidance=True,
        infer_steps=40,
        guidance_scale=3.5,
        step_caches=(_EASYCACHE, _MAGCACHE_OF_WAN22),
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
        step_caches=(_EASYCACHE, _MAGCACHE_OF_WAN22),
    ),
}


_DEMO_LAYERS = 2
"""Of the miniature models' transformer; the smallest real one has 30."""


def profile_of(files: ModelFiles, name: str, *, is_distilled: bool = False) -> ModelProfile:
    """Return the profile of a model under the name that jobs give.

    Raises:
        ModelFolderError: If it is to be a distilled one, of which its family has none.
    """
    own = structs.replace(
        _PROFILES[files.family],
        name=name,
        content_hash=content_hash(files),
        quantization=files.components["transformer"].quantization,
        is_demo=files.components["transformer"].config.get("num_layers") == _DEMO_LAYERS,
        image_view=files.image_view,
    )
    return distilled(own) if is_distilled else own


def with_attention(profile: ModelProfile, attention: Attention) -> ModelProfile:
    """Return the profile of a model whose attention is computed as `--attention` asks.

    A lossy one makes other videos: no checkpoint of a job may change over to it.
    """
    if attention == "exact":
        return profile
    changed = hashlib.sha256(f"{attention} attention {profile.content_hash}".encode()).hexdigest()
    return structs.replace(profile, attention=attention, content_hash=changed)


def content_hash(files: ModelFiles) -> str:
    """Return what tells two models apart without reading their weights, in hexadecimal."""
    described: dict[str, object] = {
        part: _described(component) for part, component in files.components.items()
    }
    if files.image_view == "official":
        # The same weights make another video than in a folder that states its own view.
        described["image_view"] = files.image_view
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
