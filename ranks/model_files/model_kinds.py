"""Tells which model a folder holds, so that a refusal can name it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ranks.errors import ModelFolderError
from ranks.model_files.json_file import read_json

EXPECTED = (
    "expected Wan2.1 I2V in the layout of diffusers, such as "
    "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers; name its folder with --model-path"
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

_CLASSES = {
    "transformer": ("_class_name", "WanTransformer3DModel"),
    "vae": ("_class_name", "AutoencoderKLWan"),
    "text_encoder": ("model_type", "umt5"),
    "image_encoder": ("model_type", "clip_vision_model"),
}
"""What the config of each component with weights says about its architecture."""


def refuse_other_layout(folder: Path) -> None:
    """Refuse a folder without model_index.json, and name what it is.

    Raises:
        ModelFolderError: If the file is missing.
    """
    if not (folder / "model_index.json").is_file():
        what = next(_other_layouts(folder), "has no model_index.json")
        raise ModelFolderError(f"model folder {folder} {what}; {EXPECTED}, or try --demo")


def refuse_other_model(folder: Path) -> None:
    """Refuse a complete diffusers folder of a model with another architecture, and name it.

    Raises:
        ModelFolderError: In that case.
    """
    found = next(_other_models(folder), None)
    if found is not None:
        raise ModelFolderError(f"model folder {folder} holds {found}; {EXPECTED}")


def refuse_other_pipeline(folder: Path) -> None:
    """Refuse a model whose pipeline is another; its folder may lack components of ours.

    Raises:
        ModelFolderError: In that case.
    """
    found = _other_pipeline(read_json(folder / "model_index.json"))
    if found is not None:
        raise ModelFolderError(f"model folder {folder} holds {found}; {EXPECTED}")


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


def _other_pipeline(index: dict[str, Any]) -> str | None:
    name = index.get("_class_name")
    has_two = any(index.get("transformer_2") or ())  # an absent one may be stated as two nulls
    if has_two:
        return f"Wan2.2 {'T2V' if name == 'WanPipeline' else 'I2V'}-A14B (two transformers)"
    if index.get("expand_timesteps"):
        return "Wan2.2 TI2V-5B"
    if name != "WanImageToVideoPipeline":
        return _PIPELINES.get(str(name), f"a model of the pipeline {name}")
    return None


def _other_models(folder: Path) -> Iterator[str]:
    configs = {part: read_json(folder / part / "config.json") for part in _CLASSES}
    for part, (field, expected) in _CLASSES.items():
        if configs[part].get(field) != expected:
            yield f"a {part} with {field} {configs[part].get(field)!r} instead of {expected!r}"
    transformer, vae = configs["transformer"], configs["vae"]
    text_dim, image_dim = transformer.get("text_dim"), transformer.get("image_dim")
    if transformer.get("pos_embed_seq_len") is not None:
        yield "Wan2.1 FLF2V (first and last frame)"
    if image_dim is None:
        yield "a Wan transformer without an image branch (T2V or Wan2.2)"
    # The noise, a mask of four frames, and the encoded image.
    latents = transformer.get("out_channels")
    wanted = 2 * latents + 4 if isinstance(latents, int) else None
    yield from _differs("transformer", transformer, "in_channels", wanted)
    if vae.get("is_residual") or vae.get("patch_size") is not None:
        yield "the VAE of Wan2.2 TI2V-5B"
    yield from _differs("vae", vae, "z_dim", latents)
    yield from _differs("text_encoder", configs["text_encoder"], "d_model", text_dim)
    yield from _differs("image_encoder", configs["image_encoder"], "hidden_size", image_dim)


def _differs(part: str, config: dict[str, Any], field: str, expected: object) -> Iterator[str]:
    if config.get(field) != expected:
        found = config.get(field)
        yield f"a {part} with {field} {found!r}, where the other components need {expected!r}"
