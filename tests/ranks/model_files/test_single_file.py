"""Transformers in single files take the place of a folder's own."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from broker.wire.job import JobSpec
from ranks.demo.original_layout import original_tensors, write_original_layout
from ranks.errors import ModelFolderError
from ranks.model.weights import check_fit
from ranks.model_files.components import ComponentName
from ranks.model_files.opened_model import open_model
from tests.ranks.conftest import DemoFolders, draw_image
from tests.ranks.lone_engine import lone_frames

THREE_STEPS = JobSpec(
    prompt="A dog walks.",
    image_size="64*64",
    num_frames=5,
    infer_steps=3,
    guidance_scale=1.0,
    seed=3,
)
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
    files = open_model(folder, [file])
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
    assert open_model(original_folder, [file]).family == "wan2.1-flf2v"


def test_tensors_of_other_components_in_the_file_are_strays(
    original_folder: Path, original: dict[str, Tensor], tmp_path: Path
) -> None:
    file = tmp_path / "all.safetensors"
    named = {f"model.diffusion_model.{name}": tensor for name, tensor in original.items()}
    save_file(named | {"first_stage_model.x": torch.ones(1)}, file)
    transformer = open_model(original_folder, [file]).components["transformer"]
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
        ({"patch_embedding.weight": torch.ones(144, 16, 1, 2, 2)}, "of another model: it takes 16"),
        ({"text_embedding.0.weight": torch.ones(144, 8)}, "needs 8"),
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
        open_model(original_folder, [file])


@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_the_folders_own_transformer_may_be_missing(
    demo_folder: Path,
    original_folder: Path,
    original: dict[str, Tensor],
    tmp_path: Path,
    layout: str,
) -> None:
    file = tmp_path / "one.safetensors"
    save_file(original, file)
    whole = demo_folder if layout == "diffusers" else original_folder
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    own = folder / "transformer" if layout == "diffusers" else folder
    for weights in own.glob("diffusion_pytorch_model*"):
        weights.unlink()
    assert open_model(folder, [file]).components.keys() == open_model(whole).components.keys()
    assert open_model(folder, [file]).num_heads == 8
    (own / "config.json").unlink()
    files = open_model(folder, [file])
    assert (files.family, files.layout) == ("wan2.1-i2v", layout)
    assert files.num_heads == 1  # no more than 128 channels each, as in every real model
    with pytest.raises(ModelFolderError, match=r"is incomplete; missing: .*config\.json"):
        open_model(folder)


@pytest.fixture(scope="module")
def experts(demo_folders: DemoFolders, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The transformers of the demo model of A14B, that for high noise first."""
    folder, files = tmp_path_factory.mktemp("experts"), []
    for part in ("transformer", "transformer_2"):
        tensors = load_file(demo_folders("wan2.2-i2v-a14b") / part / Path(STEM).name)
        files.append(folder / f"{part}.safetensors")
        save_file(original_tensors("transformer", {}, tensors), files[-1])
    return files


@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_two_files_are_the_transformers_of_a14b_for_high_and_for_low_noise(
    demo_folders: DemoFolders, experts: list[Path], tmp_path: Path, layout: str
) -> None:
    folder = demo_folders("wan2.2-i2v-a14b")
    expected = open_model(folder)
    if layout == "original":
        write_original_layout(folder, tmp_path / "original")
        folder = tmp_path / "original"
    files = open_model(folder, experts)
    check_fit(files)
    assert (files.family, files.boundary_ratio) == ("wan2.2-i2v-a14b", expected.boundary_ratio)
    parts: tuple[ComponentName, ...] = ("transformer", "transformer_2")
    for part, file in zip(parts, experts, strict=True):
        weights = files.components[part].weights
        assert weights.keys() == expected.components[part].weights.keys()
        assert {where.path for where in weights.values()} == {file}


def test_a_job_of_a14b_has_the_same_bits_from_two_files(
    demo_folders: DemoFolders, experts: list[Path], tmp_path: Path
) -> None:
    folder, image = demo_folders("wan2.2-i2v-a14b"), tmp_path / "sample.png"
    draw_image(image)
    expected = lone_frames(folder, tmp_path / "a", THREE_STEPS, image)
    found = lone_frames(folder, tmp_path / "b", THREE_STEPS, image, transformers=experts)
    assert torch.equal(found, expected)


def test_the_number_and_order_of_the_files_are_those_of_the_model(
    demo_folders: DemoFolders,
    experts: list[Path],
    original: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    folder = demo_folders("wan2.2-i2v-a14b")
    high, low = (tmp_path / f"{noise}_noise_14B.safetensors" for noise in ("high", "low"))
    for file, copied in zip(experts, (high, low), strict=True):
        copied.symlink_to(file)
    one = tmp_path / "i2v.safetensors"
    save_file(original, one)
    for files, message in (
        (
            [high],
            r"high_noise_14B.safetensors is one of the two transformers of Wan2.2 A14B; give both",
        ),
        ([low, high], "the first file must be the one for high noise; exchange them"),
        ([one, low], "has wan2.1-i2v and wan2.2-i2v-a14b; expected one file, or the two of"),
        ([one], "is incomplete; missing: image_encoder/config.json"),
    ):
        with pytest.raises(ModelFolderError, match=message):
            open_model(folder, files)
    with pytest.raises(
        ModelFolderError, match=r"with the transformer .*high_noise.* holds the VAE"
    ):
        open_model(demo_folders("wan2.2-ti2v-5b"), [high, low])


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
        open_model(original_folder, [tmp_path / name])
