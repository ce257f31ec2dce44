"""Writes small LoRAs in the forms that are in use, and computes the merged weights by formula."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ranks.model_files.components import Component
from ranks.model_files.original_names import transformer_names

RANK = 2
ALPHA = 3.0

Weights = Mapping[str, Tensor]
Changes = dict[str, Tensor]
Write = Callable[[Path, Weights], Changes]

ORIGINAL_MODULES = (
    "patch_embedding",
    "time_projection.1",
    "head.head",
    "blocks.0.self_attn.q",
    "blocks.1.cross_attn.k_img",
    "blocks.1.ffn.0",
)


def diffusers_name(original: str) -> str:
    names = transformer_names(original)
    assert names is not None
    return names[0]


def stored_weights(component: Component) -> dict[str, Tensor]:
    """Return the weights as a model's files hold them, in float32."""
    files: dict[Path, dict[str, Tensor]] = {}
    for weight in component.weights.values():
        if weight.path not in files:
            files[weight.path] = safetensors.torch.load_file(weight.path)
    return {
        name: files[weight.path][weight.name].float() for name, weight in component.weights.items()
    }


def factors(weight: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return the factors up and down of a change, shaped as convolutions have them."""
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(weight.shape[0], RANK, *[1] * (weight.dim() - 2), generator=generator)
    return up * 0.2, torch.randn(RANK, *weight.shape[1:], generator=generator) * 0.2


def product(up: Tensor, down: Tensor, shape: torch.Size) -> Tensor:
    return (up.flatten(1) @ down.flatten(1)).reshape(shape)


def write_low_rank(
    path: Path,
    weights: Weights,
    spell: Callable[[str, str], str],
    *,
    factor: float = 1.0,
    alpha: bool = False,
    metadata: dict[str, str] | None = None,
    modules: Iterable[str] = ORIGINAL_MODULES,
) -> Changes:
    """Write low-rank changes of some modules; `spell` names a tensor of an original module."""
    tensors, changes = {}, {}
    for seed, module in enumerate(modules):
        name = diffusers_name(f"{module}.weight")
        if name not in weights:
            continue
        up, down = factors(weights[name], seed)
        tensors[spell(module, "up")], tensors[spell(module, "down")] = up, down
        if alpha:
            tensors[spell(module, "alpha")] = torch.tensor(ALPHA)
        changes[name] = product(up, down, weights[name].shape) * factor
    safetensors.torch.save_file(tensors, path, metadata)
    return changes


def write_peft(path: Path, weights: Weights, part: str = "transformer") -> Changes:
    def spell(module: str, kind: str) -> str:
        own = diffusers_name(f"{module}.weight").removesuffix(".weight")
        return f"{part}.{own}.lora_{'B' if kind == 'up' else 'A'}.weight"

    return write_low_rank(path, weights, spell)


def write_peft_with_metadata(path: Path, weights: Weights) -> Changes:
    def spell(module: str, kind: str) -> str:
        own = diffusers_name(f"{module}.weight").removesuffix(".weight")
        return f"transformer.{own}.lora_{'B' if kind == 'up' else 'A'}.weight"

    config = {"transformer.r": RANK, "transformer.lora_alpha": ALPHA}
    metadata = {"lora_adapter_metadata": json.dumps(config)}
    return write_low_rank(path, weights, spell, factor=ALPHA / RANK, metadata=metadata)


def write_comfy(path: Path, weights: Weights) -> Changes:
    def spell(module: str, kind: str) -> str:
        end = "alpha" if kind == "alpha" else f"lora_{kind}.weight"
        return f"diffusion_model.{module}.{end}"

    return write_low_rank(path, weights, spell, factor=ALPHA / RANK, alpha=True)


def write_comfy_peft(path: Path, weights: Weights) -> Changes:
    def spell(module: str, kind: str) -> str:
        return f"diffusion_model.{module}.lora_{'B' if kind == 'up' else 'A'}.weight"

    return write_low_rank(path, weights, spell)


def write_musubi(path: Path, weights: Weights) -> Changes:
    def spell(module: str, kind: str) -> str:
        end = "alpha" if kind == "alpha" else f"lora_{kind}.weight"
        return f"lora_unet_{module.replace('.', '_')}.{end}"

    return write_low_rank(path, weights, spell, factor=ALPHA / RANK, alpha=True)


def write_diffsynth(path: Path, weights: Weights) -> Changes:
    def spell(module: str, kind: str) -> str:
        return f"{module}.lora_{'B' if kind == 'up' else 'A'}.default.weight"

    return write_low_rank(path, weights, spell)


def write_lightx2v(path: Path, weights: Weights) -> Changes:
    """Write low-rank changes beside whole differences of a weight, norms, biases and tables."""
    changes = write_comfy_peft(path, weights)
    tensors = safetensors.torch.load_file(path)
    for seed, (module, end, name) in enumerate(
        (
            ("blocks.0.norm3", "diff", "blocks.0.norm2.weight"),
            ("blocks.0.norm3", "diff_b", "blocks.0.norm2.bias"),
            ("blocks.0.self_attn.norm_q", "diff", "blocks.0.attn1.norm_q.weight"),
            ("blocks.0.self_attn.q", "diff_b", "blocks.0.attn1.to_q.bias"),
            ("blocks.1.ffn.2", "diff", "blocks.1.ffn.net.2.weight"),
            ("blocks.1", "diff_m", "blocks.1.scale_shift_table"),
            ("head", "diff_m", "scale_shift_table"),
            ("patch_embedding", "diff_b", "patch_embedding.bias"),
        )
    ):
        generator = torch.Generator().manual_seed(100 + seed)
        change = torch.randn(weights[name].shape, generator=generator) * 0.1
        tensors[f"diffusion_model.{module}.{end}"] = change
        changes[name] = change
    safetensors.torch.save_file(tensors, path)
    return changes


FORMS: dict[str, Write] = {
    "peft": write_peft,
    "peft with metadata": write_peft_with_metadata,
    "ComfyUI with alpha": write_comfy,
    "ComfyUI in peft's words": write_comfy_peft,
    "musubi": write_musubi,
    "DiffSynth": write_diffsynth,
    "LightX2V": write_lightx2v,
}


def merged(weights: Weights, *changes: tuple[Changes, float]) -> dict[str, Tensor]:
    """Return W + Σ strength · change, in float32."""
    result = {name: weight.clone() for name, weight in weights.items()}
    for change, strength in changes:
        for name, value in change.items():
            result[name] += strength * value
    return result
