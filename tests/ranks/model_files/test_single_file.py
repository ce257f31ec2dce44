"""A transformer in a single file takes the place of a folder's own."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ranks.demo.original_layout import original_tensors
from ranks.errors import ModelFolderError
from ranks.model.weights import check_fit
from ranks.model_files.opened_model import open_model

STEM = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def original(demo_folder: Path) -> dict[str, Tensor]:
    """The demo's transformer under its original names."""
    return original_tensors("transformer", {}, load_file(demo_folder / STEM))


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_it_takes_the_rest_from_a_folder_of_either_layout(
    demo_folder: Path,
    original_folder: Path,
    original: dict[str, Tensor],
    tmp_path: Path,
    prefix: str,
    layout: str,
) -> None:
    file = tmp_path / "wan2.1_i2v_720p_14B_fp16.safetensors"
    save_file({f"{prefix}{name}": tensor.half() for name, tensor in original.items()}, file)
    folder = demo_folder if layout == "diffusers" else original_folder
    files = open_model(folder, file)
    check_fit(files)
    whole = open_model(folder).components
    transformer = files.components["transformer"]
    assert transformer.weights.keys() == whole["transformer"].weights.keys()
    assert {where.path for where in transformer.weights.values()} == {file}
    assert {where.dtype for where in transformer.weights.values()} == {"F16"}
    assert files.num_heads == 8  # which the file does not state
    assert files.components["vae"] == whole["vae"]


def test_a_file_with_the_positions_of_two_images_makes_it_a_model_of_first_and_last_frame(
    original_folder: Path, original: dict[str, Tensor], tmp_path: Path
) -> None:
    file = tmp_path / "flf2v.safetensors"
    save_file(original | {"img_emb.emb_pos": torch.zeros(1, 34, 32)}, file)
    assert open_model(original_folder).family == "wan2.1-i2v"
    assert open_model(original_folder, file).family == "wan2.1-flf2v"


def test_tensors_of_other_components_in_the_file_are_strays(
    original_folder: Path, original: dict[str, Tensor], tmp_path: Path
) -> None:
    file = tmp_path / "all.safetensors"
    named = {f"model.diffusion_model.{name}": tensor for name, tensor in original.items()}
    save_file(named | {"first_stage_model.x": torch.ones(1)}, file)
    transformer = open_model(original_folder, file).components["transformer"]
    assert transformer.strays == ["first_stage_model.x"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scaled_fp8": torch.zeros(0)}, "holds scaled_fp8: its weights are quantized"),
        (
            {"head.head.scale_weight": torch.ones(())},
            r"scale_weight, but no head\.head\.weight of 8-bit numbers",
        ),
        ({"blocks.0.attn1.to_q.weight": torch.ones(1)}, "no weight of the transformer"),
        ({"vace_patch_embedding.weight": torch.ones(1)}, "a weight of Wan VACE"),
        ({"patch_embedding.weight": torch.ones(144, 16, 1, 2, 2)}, "of 16 channels .* of 36 chan"),
        ({"head.head.bias": torch.ones(2)}, r"head\.head\.bias has the shape \[2\], expected"),
    ],
)
def test_a_file_of_another_model_is_refused(
    original_folder: Path,
    original: dict[str, Tensor],
    tmp_path: Path,
    change: dict[str, Tensor],
    message: str,
) -> None:
    file = tmp_path / "one.safetensors"
    save_file(original | change, file)
    with pytest.raises(ModelFolderError, match=f"one.safetensors.*{message}"):
        open_model(original_folder, file)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.safetensors", None, "cannot be read: No such file or directory"),
        ("model.gguf", b"GGUF" + bytes(99), "is a GGUF file; expected a safetensors file"),
        ("model.pth", b"PK\x03\x04" + bytes(99), "is a PyTorch checkpoint"),
    ],
)
def test_a_file_that_is_not_safetensors_is_refused(
    original_folder: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelFolderError, match=f"{name}.* {message}"):
        open_model(original_folder, tmp_path / name)
