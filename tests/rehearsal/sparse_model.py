"""The 14B model as a folder that takes no disk: real names, shapes and dtypes, and holes for data.

The real loader reads it. The stubs do not copy large tensors to a device, so that the holes are
hardly ever read.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.ranks.model.real_models import CONFIGS, real_models

_LARGEST_FILE = 4 << 30
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}


def make_sparse_model(folder: Path, demo_model: Path, vae_dtype: torch.dtype) -> None:
    """Make the folder.

    Args:
        folder: Where it goes.
        demo_model: Lends its index, and its tokenizer, since the real one is not at hand.
        vae_dtype: As the VAE is served, so that loading converts nothing.
    """
    transformer, text_encoder, image_encoder, vae = real_models()
    nn.Module.to(vae, vae_dtype)
    for name, model in (
        ("transformer", transformer),
        ("text_encoder", text_encoder),
        ("image_encoder", image_encoder),
        ("vae", vae),
    ):
        component = folder / name
        component.mkdir(parents=True)
        (component / "config.json").write_text((CONFIGS / f"{name}.json").read_text())
        # Tied weights have several names; files hold one of them.
        weight_map: dict[str, str] = {}
        for number, part in enumerate(in_parts(model.named_parameters())):
            path = component / f"part-{number}.safetensors"
            write_sparse(path, part)
            weight_map |= {tensor: path.name for tensor, _ in part}
        index = component / f"{_stem(name)}.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
    CLIPImageProcessorPil().save_pretrained(folder / "image_processor")
    for name in ("tokenizer", "model_index.json"):
        (folder / name).symlink_to(demo_model / name)


def _stem(name: str) -> str:
    return "model" if name.endswith("encoder") else "diffusion_pytorch_model"


def in_parts(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[list[tuple[str, Tensor]]]:
    """Yield tensors in files of a few GB, as models are published; larger ones cannot be mapped."""
    part: list[tuple[str, Tensor]] = []
    for name, tensor in tensors:
        part.append((name, tensor))
        if sum(kept.nbytes for _, kept in part) > _LARGEST_FILE:
            yield part
            part = []
    if part:
        yield part


def write_sparse(path: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write a safetensors file whose tensors are all zero and take no disk."""
    header, size = header_of(tensors)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)


def header_of(tensors: Iterable[tuple[str, Tensor]]) -> tuple[bytes, int]:
    """Return the header of a safetensors file, and how many bytes of data follow it."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors:
        begin, end = end, end + tensor.nbytes
        entries[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    return json.dumps(entries).encode(), end
