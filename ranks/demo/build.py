"""Builds demo models: model folders with every component of the real ones, in miniature.

They have the same classes and files, use a fixed seed and take seconds to build, so the demo and
the tests run the code that serves the real models. The weights of transformer and VAE are
constructed so that the video shows the picture; those of the encoders are random.

`python -m ranks.demo.build FOLDER [FAMILY[:original]]`
"""

import json
import math
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
import transformers
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    T5TokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from broker.wire.model_profile import Family
from ranks.demo.attention_heads import HEAD_DIM
from ranks.demo.original_layout import write_original_layout
from ranks.demo.patch_vae_weights import NUM_PATCH_LATENTS, construct_patch_vae, make_patch_vae
from ranks.demo.transformer_weights import construct_transformer
from ranks.demo.vae_weights import NUM_LATENTS, construct_vae
from ranks.model_files.components import WEIGHTED, Layout
from ranks.model_files.original_folder import TOKENIZER

SEED = 20_250_226
NUM_HEADS = 8
_TEXT_DIM = 32
_IMAGE_DIM = 32
_IMAGE_HEADS = 16
"""As in every model of Wan2.1: the original files do not state it."""
_MASK_CHANNELS = 4
_VOCABULARY_SIZE = 512
_RARE_LOG_PROBABILITY = -12.0
_IMAGE_SIDE_PX = 56
_IMAGE_PATCH_PX = 14

_TRANSFORMER = ["diffusers", "WanTransformer3DModel"]

# As in the model_index.json of the real folders.
COMPONENTS = {
    "image_encoder": ["transformers", "CLIPVisionModel"],
    "image_processor": ["transformers", "CLIPImageProcessor"],
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "transformer": _TRANSFORMER,
    "vae": ["diffusers", "AutoencoderKLWan"],
}
_NO_IMAGES = {"image_encoder": [None, None], "image_processor": [None, None]}
INDEXES: dict[Family, dict[str, Any]] = {
    "wan2.1-i2v": COMPONENTS,
    "wan2.1-flf2v": COMPONENTS,
    "wan2.2-i2v-a14b": COMPONENTS
    | _NO_IMAGES
    | {"transformer_2": _TRANSFORMER, "boundary_ratio": 0.9},
    "wan2.2-ti2v-5b": COMPONENTS
    | _NO_IMAGES
    | {"transformer_2": [None, None], "boundary_ratio": None, "expand_timesteps": True}
    | {"_class_name": "WanPipeline"},
}


def make_demo_model(
    folder: Path, family: Family = "wan2.1-i2v", layout: Layout = "diffusers"
) -> None:
    # Built next to the folder and renamed, so that the folder is never incomplete.
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        built = Path(temporary) / "model"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            _write_components(built, family)
        _write_index(built, family)
        if layout == "original":
            original = built.with_name("original")
            write_original_layout(built, original)
            built = original
        built.rename(folder)


def _write_components(folder: Path, family: Family) -> None:
    parts = WEIGHTED[family]
    for part in parts:
        if part.startswith("transformer"):
            _make_transformer(family).save_pretrained(folder / part)
    _make_vae(family).save_pretrained(folder / "vae")
    _make_text_encoder().save_pretrained(folder / "text_encoder")
    if "image_encoder" in parts:
        _make_image_encoder().save_pretrained(folder / "image_encoder")
        CLIPImageProcessorPil(
            size={"shortest_edge": _IMAGE_SIDE_PX}, crop_size=_IMAGE_SIDE_PX
        ).save_pretrained(folder / "image_processor")
    _make_tokenizer().save_pretrained(folder / "tokenizer")
    UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    ).save_pretrained(folder / "scheduler")


def _write_index(folder: Path, family: Family) -> None:
    index = {"_class_name": "WanImageToVideoPipeline", "_diffusers_version": "0.33.0.dev0"}
    (folder / "model_index.json").write_text(json.dumps(index | INDEXES[family], indent=2) + "\n")


def _make_transformer(family: Family) -> WanTransformer3DModel:
    has_images = "image_encoder" in WEIGHTED[family]
    is_patched = family == "wan2.2-ti2v-5b"
    num_image_tokens = (_IMAGE_SIDE_PX // _IMAGE_PATCH_PX) ** 2 + 1
    model: WanTransformer3DModel = WanTransformer3DModel(
        num_attention_heads=NUM_HEADS,
        attention_head_dim=HEAD_DIM,
        in_channels=NUM_PATCH_LATENTS if is_patched else 2 * NUM_LATENTS + _MASK_CHANNELS,
        out_channels=NUM_PATCH_LATENTS if is_patched else NUM_LATENTS,
        text_dim=_TEXT_DIM,
        freq_dim=64,
        ffn_dim=192,
        num_layers=2,
        cross_attn_norm=True,
        image_dim=_IMAGE_DIM if has_images else None,
        added_kv_proj_dim=NUM_HEADS * HEAD_DIM if has_images else None,
        pos_embed_seq_len=2 * num_image_tokens if family == "wan2.1-flf2v" else None,
    )
    construct_transformer(model)
    return model


def _make_vae(family: Family) -> AutoencoderKLWan:
    if family == "wan2.2-ti2v-5b":
        patch_vae = make_patch_vae()
        construct_patch_vae(patch_vae)
        return patch_vae
    vae: AutoencoderKLWan = AutoencoderKLWan(base_dim=8, z_dim=NUM_LATENTS, num_res_blocks=1)
    construct_vae(vae)
    return vae


def _make_text_encoder() -> UMT5EncoderModel:
    config = UMT5Config(
        vocab_size=_VOCABULARY_SIZE,
        d_model=_TEXT_DIM,
        d_kv=8,
        d_ff=64,
        num_heads=4,
        num_layers=2,
    )
    return UMT5EncoderModel(config).eval()


def _make_image_encoder() -> CLIPVisionModel:
    config = CLIPVisionConfig(
        hidden_size=_IMAGE_DIM,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=_IMAGE_HEADS,
        image_size=_IMAGE_SIDE_PX,
        patch_size=_IMAGE_PATCH_PX,
        hidden_act="gelu",
    )
    return CLIPVisionModel(config).eval()


def _make_tokenizer() -> T5TokenizerFast:
    # From the words of a small corpus, and characters for other words: a trained tokenizer would
    # differ each time, with any seed.
    words = Counter(word for text in _tokenizer_corpus() for word in re.findall(r"\w+", text))
    total = words.total()
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    known = [(f"▁{word}", math.log(count / total)) for word, count in sorted(words.items())]
    characters = [(chr(code), _RARE_LOG_PROBABILITY) for code in range(33, 127)]
    return T5TokenizerFast(
        vocab=[*special, *known, ("▁", _RARE_LOG_PROBABILITY), *characters], extra_ids=0
    )


def _tokenizer_corpus() -> Iterator[str]:
    subjects = "a cat, a small dog, the old lighthouse, waves, a red balloon, two people, a city"
    motions = "walks slowly, turns around, drifts in the wind, shines, opens its eyes, flies away"
    looks = "cinematic light, at sunset, in the rain, close up, slow motion, high quality, detailed"
    faults = "blurred, static, overexposed, subtitles, worst quality, deformed, extra fingers"
    for text in (subjects, motions, looks, faults):
        yield from text.split(", ")
        yield text
    for subject in subjects.split(", "):
        for motion in motions.split(", "):
            for look in looks.split(", "):
                yield f"{subject} {motion}, {look}."


def main() -> None:
    folder, model = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "wan2.1-i2v"
    family, _, layout = model.partition(":")
    transformers.logging.set_verbosity_error()
    if not (folder / (TOKENIZER if layout else "tokenizer")).exists():
        shutil.rmtree(folder, ignore_errors=True)
        make_demo_model(
            folder, msgspec.convert(family, Family), msgspec.convert(layout or "diffusers", Layout)
        )


if __name__ == "__main__":
    main()
