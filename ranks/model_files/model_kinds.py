"""Tells which model a folder holds: its family, or the name with which it is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from broker.wire.model_profile import Family
from ranks.errors import ModelFolderError
from ranks.model_files.components import ComponentName
from ranks.model_files.json_file import read_json

Configs = dict[ComponentName, dict[str, Any]]

EXPECTED = (
    "expected Wan2.1 I2V or FLF2V, or Wan2.2 I2V-A14B or TI2V-5B, such "
    "as Wan-AI/Wan2.1-I2V-14B-720P-Diffusers; name its folder with --model-path"
)

_PIPELINES = {
    "WanPipeline": "Wan T2V (text to video, without an image encoder)",
    "WanVACEPipeline": "Wan VACE",
    "WanAnimatePipeline": "Wan Animate",
    "WanSpeechToVideoPipeline": "Wan S2V (speech to video)",
    "WanVideoToVideoPipeline": "Wan V2V (video to video)",
}

_ORIGINALS = {
    "i2v": "I2V",
    "flf2v": "FLF2V (first and last frame)",
    "t2v": "T2V (text to video)",
    "ti2v": "TI2V-5B",
    "vace": "VACE",
    "s2v": "S2V (speech to video)",
    "animate": "Animate",
}
"""Kinds of Wan by the `model_type` of an original config."""

_CLASSES: dict[ComponentName, tuple[str, str]] = {
    "transformer": ("_class_name", "WanTransformer3DModel"),
    "transformer_2": ("_class_name", "WanTransformer3DModel"),
    "vae": ("_class_name", "AutoencoderKLWan"),
    "text_encoder": ("model_type", "umt5"),
    "image_encoder": ("model_type", "clip_vision_model"),
}
"""What the config of each component with weights says about its architecture."""

_SHARED_FIELDS = (
    *("num_attention_heads", "attention_head_dim", "num_layers", "ffn_dim"),
    *("in_channels", "out_channels", "text_dim", "image_dim"),
)
"""What two transformers of one model have in common."""


def refuse_other_layout(folder: Path) -> None:
    """Refuse a folder without model_index.json, and name what it is.

    Raises:
        ModelFolderError: If the file is missing.
    """
    if not (folder / "model_index.json").is_file():
        what = next(_other_layouts(folder), "has no model_index.json")
        raise ModelFolderError(f"model folder {folder} {what}; {EXPECTED}, or try --demo")


def recognise_family(folder: Path) -> Family:
    """Return the family of a diffusers folder, which may be incomplete.

    Raises:
        ModelFolderError: If the model is of none that is served; the message names it.
    """
    index = read_json(folder / "model_index.json")
    name = str(index.get("_class_name"))
    if any(index.get("transformer_2") or ()):  # an absent one may be stated as two nulls
        if name == "WanImageToVideoPipeline":
            return "wan2.2-i2v-a14b"
        raise _refused(str(folder), "Wan2.2 T2V-A14B (text to video, two transformers)")
    # The makers' own index of TI2V-5B names the pipeline without a picture.
    if index.get("expand_timesteps") and name in ("WanPipeline", "WanImageToVideoPipeline"):
        return "wan2.2-ti2v-5b"
    if name != "WanImageToVideoPipeline":
        raise _refused(str(folder), _PIPELINES.get(name, f"a model of the pipeline {name}"))
    config = folder / "transformer" / "config.json"
    if config.is_file() and read_json(config).get("pos_embed_seq_len") is not None:
        return "wan2.1-flf2v"
    return "wan2.1-i2v"


def refuse_other_model(place: str, family: Family, configs: Configs) -> None:
    """Refuse the components of a complete diffusers folder that are not those of the family.

    Args:
        place: What the message calls the folder.
        family: The family.
        configs: Of the components, by their names.

    Raises:
        ModelFolderError: In that case.
    """
    found = next(_other_components(configs, family), None)
    if found is not None:
        raise _refused(place, found)


def read_boundary_ratio(folder: Path) -> float:
    """Return where a model with two transformers changes from one to the other.

    Raises:
        ModelFolderError: If its index does not state it.
    """
    index = folder / "model_index.json"
    ratio = read_json(index).get("boundary_ratio")
    if not isinstance(ratio, int | float) or not 0 < ratio <= 1:
        raise ModelFolderError(
            f"{index}: boundary_ratio is {ratio!r}; expected a number above 0, up to 1, since the "
            "model has two transformers"
        )
    return float(ratio)


def _refused(place: str, found: str) -> ModelFolderError:
    return ModelFolderError(f"model folder {place} holds {found}; {EXPECTED}")


def _other_layouts(folder: Path) -> Iterator[str]:
    if (folder / "high_noise_model").is_dir() or (folder / "low_noise_model").is_dir():
        yield "is an original folder of Wan2.2 A14B, not in the layout of diffusers"
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        name = str(config.get("_class_name", ""))
        if "Wan" in name and "Transformer" not in name:
            # Some classes of Wan2.2 are named after their kind, and give no `model_type`.
            kinds = (str(config.get("model_type", "")), *name.lower().split("_"))
            kind = next((_ORIGINALS[kind] for kind in kinds if kind in _ORIGINALS), name)
            yield f"is an original folder of Wan {kind}, not in the layout of diffusers"
        yield f"is a single component ({name or config.get('model_type')}), not a whole model"
    if (folder / "modular_model_index.json").is_file():
        yield "is a modular pipeline of diffusers (modular_model_index.json)"
    if (folder / "snapshots").is_dir():
        yield "is a folder of the Hub's cache; the model is a folder below its snapshots/"
    single = [*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.gguf"))]
    if single:
        yield f"holds single files such as {single[0].name}"


def _other_components(configs: Configs, family: Family) -> Iterator[str]:
    for part, config in configs.items():
        field, expected = _CLASSES[part]
        yield from _differs(part, config, field, expected, "was expected")
    transformer, vae = configs["transformer"], configs["vae"]
    latents = transformer.get("out_channels")
    is_patched = family == "wan2.2-ti2v-5b"
    if isinstance(latents, int):
        # The noise, a mask of four frames, and the encoded image.
        channels = latents if is_patched else 2 * latents + 4
        yield from _differs("transformer", transformer, "in_channels", channels)
    yield from _other_images(configs, family)
    if "transformer_2" in configs:
        for field in _SHARED_FIELDS:
            yield from _differs(
                "transformer_2", configs["transformer_2"], field, transformer.get(field)
            )
    if bool(vae.get("is_residual")) != is_patched or (vae.get("patch_size") == 2) != is_patched:
        yield f"the VAE of {'another model' if is_patched else 'Wan2.2 TI2V-5B'}"
    yield from _differs("vae", vae, "z_dim", latents)
    yield from _differs(
        "text_encoder", configs["text_encoder"], "d_model", transformer.get("text_dim")
    )


def _other_images(configs: Configs, family: Family) -> Iterator[str]:
    """Yield what is wrong with the image branch of a transformer, or the lack of one."""
    transformer, encoder = configs["transformer"], configs.get("image_encoder")
    image_dim = transformer.get("image_dim")
    if encoder is None:
        if image_dim is not None:
            yield "a Wan transformer with an image branch (Wan2.1 I2V)"
        return
    if image_dim is None:
        yield "a Wan transformer without an image branch (T2V or Wan2.2)"
    yield from _differs("image_encoder", encoder, "hidden_size", image_dim)
    side, patch = encoder.get("image_size"), encoder.get("patch_size")
    if family == "wan2.1-flf2v" and isinstance(side, int) and isinstance(patch, int):
        # The patches and the class token of two pictures.
        num_tokens = 2 * ((side // patch) ** 2 + 1)
        yield from _differs("transformer", transformer, "pos_embed_seq_len", num_tokens)


def _differs(
    part: str,
    config: dict[str, Any],
    field: str,
    expected: object,
    why: str = "is what the other components need",
) -> Iterator[str]:
    if (found := config.get(field)) != expected:
        yield f"a {part} with {field} {found!r}, where {expected!r} {why}"
