"""Files of 8-bit weights, as others write them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ranks.demo.original_layout import original_tensors
from ranks.device import Device
from ranks.errors import ModelFolderError
from ranks.model.weights import check_fit, load_transformer
from ranks.model_files.opened_model import open_model
from ranks.model_files.profiles import content_hash, profile_of
from ranks.model_files.quantization import Quantize
from tests.ranks.one_pass import velocity
from tests.ranks.quantized_files import (
    DESCRIPTION,
    DTYPES,
    Maker,
    Tensors,
    dequantized,
    write_quantized,
)

STEM = "transformer/diffusion_pytorch_model.safetensors"
INDEX = "diffusion_pytorch_model.safetensors.index.json"
CPU = Device(kind="cpu", index=0)
FIRST = "blocks.0.self_attn.q"
NUM_LINEARS = 24  # in two blocks, each with two attentions of five, and two of the feed-forward

Change = Callable[[Path, Tensors], object]


@pytest.fixture(scope="module")
def original(demo_folder: Path) -> dict[str, Tensor]:
    """The demo's transformer under its original names."""
    return original_tensors("transformer", {}, load_file(demo_folder / STEM))


@pytest.mark.parametrize("maker", get_args(Maker))
@torch.inference_mode()
def test_a_file_is_loaded_as_the_numbers_that_it_holds(
    demo_folder: Path, original: Tensors, tmp_path: Path, maker: Maker
) -> None:
    files = open_model(demo_folder, [write_quantized(original, tmp_path, maker)])
    check_fit(files)
    component = files.components["transformer"]
    assert component.quantization == (
        "int8" if maker in ("LightX2V int8", "msModelSlim") else "fp8"
    )
    assert len(component.quantized) == NUM_LINEARS
    assert profile_of(files, "x").quantization == component.quantization
    loaded = load_transformer(component, CPU, None)
    meant = dequantized(original, maker)
    named = original_tensors("transformer", {}, dict(loaded.model.named_parameters()))
    assert sum(name.endswith("weight_scale") for name in named) == NUM_LINEARS
    for name, tensor in meant.items():
        found = named[name]
        if isinstance(scale := named.get(f"{name}_scale"), Tensor):
            assert found.dtype == DTYPES[maker]
            found = found.float() * scale
        assert torch.equal(found, tensor), name


@pytest.mark.parametrize("maker", ["LightX2V fp8", "LightX2V int8"])
@torch.inference_mode()
def test_a_file_that_is_rounded_by_the_same_rule_gives_the_bits_of_rounding_at_the_start(
    demo_folder: Path, original: Tensors, tmp_path: Path, maker: Maker
) -> None:
    file = write_quantized(original, tmp_path, maker)
    stored = open_model(demo_folder, [file]).components["transformer"]
    assert stored.quantization is not None
    rounded = open_model(demo_folder, quantize=Quantize(stored.quantization))
    expected = velocity(load_transformer(rounded.components["transformer"], CPU, None))
    assert torch.equal(velocity(load_transformer(stored, CPU, None)), expected)


def test_the_prefix_of_a_file_of_the_whole_model_is_left_out(
    demo_folder: Path, original: Tensors, tmp_path: Path
) -> None:
    plain = write_quantized(original, tmp_path, "ComfyUI")
    named = tmp_path / "named.safetensors"
    prefix = "model.diffusion_model."
    save_file({f"{prefix}{name}": tensor for name, tensor in load_file(plain).items()}, named)
    part, other = (
        open_model(demo_folder, [file]).components["transformer"] for file in (plain, named)
    )
    assert (other.quantization, other.quantized) == (part.quantization, part.quantized)
    assert other.strays == []


@torch.inference_mode()
def test_an_original_folder_may_hold_8_bit_weights_and_their_scales_in_different_shards(
    original_folder: Path, original: Tensors, tmp_path: Path
) -> None:
    file = write_quantized(original, tmp_path / "file", "LightX2V int8")
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in original_folder.iterdir():
        if not path.name.startswith("diffusion_pytorch_model"):
            (folder / path.name).symlink_to(path)
    tensors = load_file(file)
    weight_map: dict[str, str] = {}
    for number, is_scale in enumerate((True, False)):
        shard = f"diffusion_pytorch_model-{number}.safetensors"
        part = {k: v for k, v in tensors.items() if k.endswith("weight_scale") == is_scale}
        save_file(part, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    found, expected = (
        velocity(load_transformer(files.components["transformer"], CPU, None))
        for files in (open_model(folder), open_model(original_folder, [file]))
    )
    assert torch.equal(found, expected)


def test_every_way_of_quantizing_has_a_content_hash_of_its_own(
    demo_folder: Path, original: Tensors, tmp_path: Path
) -> None:
    """Else a job would go on from the checkpoint of a group with other weights."""
    hashes = [content_hash(open_model(demo_folder, quantize=Quantize(f))) for f in ("fp8", "int8")]
    hashes.append(content_hash(open_model(demo_folder)))
    for number, maker in enumerate(get_args(Maker)):
        file = write_quantized(original, tmp_path / str(number), maker)
        hashes.append(content_hash(open_model(demo_folder, [file])))
    # Files of LightX2V and msModelSlim that hold int8 are the same to the ranks.
    assert len(set(hashes)) == len(hashes) - 1


def test_blocks_at_either_end_can_be_left_as_they_are(demo_folder: Path) -> None:
    with pytest.raises(
        ModelFolderError, match="has 2 blocks, and --quantize-skip is 1, so nothing"
    ):
        open_model(demo_folder, quantize=Quantize("int8", 1))


# --- refusals ------------------------------------------------------------------------------------


def change(**tensors: Tensor) -> Change:
    return lambda _, held: held.update({f"{FIRST}.{name}": t for name, t in tensors.items()})


def remove(name: str) -> Change:
    return lambda _, held: held.pop(f"{FIRST}.{name}")


def describe(algorithm: str) -> Change:
    def write(folder: Path, _: Tensors) -> None:
        path = folder / DESCRIPTION
        path.write_text(json.dumps(json.loads(path.read_text()) | {f"{FIRST}.weight": algorithm}))

    return write


def in_e5m2(_: Path, held: Tensors) -> None:
    held[f"{FIRST}.weight"] = held[f"{FIRST}.weight"].to(torch.float8_e5m2)


def in_int8(_: Path, held: Tensors) -> None:
    held[f"{FIRST}.weight"] = held[f"{FIRST}.weight"].to(torch.int8)


REFUSED: list[tuple[Maker, Change, str]] = [
    ("ComfyUI", change(comfy_quant=torch.ones(4)), r"q\.comfy_quant: its weights are quantized"),
    ("ComfyUI", remove("scale_weight"), r"q\.weight as F8_E4M3: its weights are quantized"),
    ("ComfyUI", in_e5m2, r"q\.scale_weight, but no .*q\.weight of 8-bit numbers"),
    ("ComfyUI", change(weight=torch.ones(144, 144)), r"q\.scale_weight, but no .* of 8-bit"),
    (
        "ComfyUI",
        lambda _, held: held.update(scaled_fp8=torch.empty(0, dtype=torch.float8_e5m2)),
        "holds scaled_fp8: its weights are quantized",
    ),
    (
        "LightX2V int8",
        change(weight_scale=torch.ones(9, 16)),
        r"q\.weight_scale, F32 of the shape \[9, 16\], for a weight of the shape \[144, 144\]",
    ),
    ("LightX2V fp8", change(weight_scale_2=torch.ones(1)), r"weight_scale_2: its weights are quan"),
    ("LightX2V fp8", in_int8, "holds weights in fp8 and in int8"),
    ("msModelSlim", change(deq_scale=torch.ones(144)), r"q\.deq_scale: its weights are quantized"),
    (
        "msModelSlim",
        change(weight_offset=torch.full((144, 1), 3.0)),
        r"q\.weight_offset, which is not zero: .* asymmetrically",
    ),
    ("msModelSlim", describe("W8A8"), r"q\.weight, quantized as W8A8; expected W8A8_DYNAMIC"),
    (
        "msModelSlim",
        lambda folder, _: (folder / DESCRIPTION).unlink(),
        f"{DESCRIPTION}, which tells .* is not beside it; copy that file there",
    ),
]


@pytest.mark.parametrize(("maker", "damage", "message"), REFUSED)
def test_what_is_not_understood_is_refused_by_name(
    demo_folder: Path,
    original: Tensors,
    tmp_path: Path,
    maker: Maker,
    damage: Change,
    message: str,
) -> None:
    file = write_quantized(original, tmp_path, maker)
    tensors = load_file(file)
    damage(tmp_path, tensors)
    save_file(tensors, file)
    with pytest.raises(ModelFolderError, match=message):
        open_model(demo_folder, [file])


def test_weights_are_not_quantized_twice(
    demo_folder: Path, original: Tensors, tmp_path: Path
) -> None:
    file = write_quantized(original, tmp_path, "LightX2V fp8")
    with pytest.raises(ModelFolderError, match="in fp8 already; leave out --quantize"):
        open_model(demo_folder, [file], Quantize("int8"))
