"""What LoRA files may hold, and how others are refused."""

import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ranks.errors import LoraFileError, ModelFolderError
from ranks.loras.lora_files import LoraFiles, changes_of, find_in_folder, unused_names
from ranks.model_files.components import ModelFiles
from ranks.model_files.opened_model import open_model
from tests.ranks.conftest import DemoFolders
from tests.ranks.loras.lora_forms import RANK, write_comfy, write_peft

NAME = "diffusion_model.blocks.0.self_attn.q"


@pytest.fixture
def path(tmp_path: Path, weights: dict[str, Tensor]) -> Path:
    path = tmp_path / "a.safetensors"
    write_comfy(path, weights)
    return path


def refusal(model: ModelFiles, *paths: Path) -> str:
    with pytest.raises(ModelFolderError) as refused:
        changes_of(LoraFiles(name="a", paths=tuple(map(str, paths))), model)
    return str(refused.value)


def rewrite(path: Path, changes: dict[str, Tensor | None]) -> None:
    tensors = load_file(path) | {name: t for name, t in changes.items() if t is not None}
    kept = {name: t for name, t in tensors.items() if changes.get(name, t) is not None}
    save_file(kept, path)


def test_a_truncated_file_is_refused(model: ModelFiles, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])
    assert "has damaged weights: it has" in refusal(model, path)


def test_a_header_larger_than_the_file_is_refused(model: ModelFiles, path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 1 << 62) + path.read_bytes()[8:])
    assert "states a header of 4611686018427387904" in refusal(model, path)


def test_a_file_of_another_kind_is_refused(model: ModelFiles, path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    assert "is a PyTorch checkpoint; expected a safetensors file" in refusal(model, path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {f"{NAME}.lora_up.weight": None},
            "without its partner; expected both factors of a low-rank change",
        ),
        (
            {f"{NAME}.lora_up.weight": torch.zeros(144, RANK + 1)},
            "expected the same rank, at least 1, in both",
        ),
        (
            {
                f"{NAME}.lora_up.weight": torch.zeros(144, 0),
                f"{NAME}.lora_down.weight": torch.zeros(0, 144),
            },
            "expected the same rank, at least 1, in both",
        ),
        (
            {f"{NAME}.lora_up.weight": torch.zeros(60, RANK)},
            "expected a LoRA of the same family and size",
        ),
        (
            {"blocks.1.norm3.diff": torch.zeros(7)},
            "blocks.1.norm3.diff has the shape [7], but blocks.1.norm2.weight of the model is",
        ),
        ({f"{NAME}.alpha": torch.zeros(2)}, "has the shape [2]; expected one number"),
        ({f"{NAME}.dora_scale": torch.zeros(1)}, "which is in no known form"),
        ({f"{NAME}.hada_w1_a": torch.zeros(1)}, "not DoRA, LoHa or LoKr"),
        (
            {f"{NAME}.lora_up.weight": torch.zeros(144, RANK).to(torch.float8_e4m3fn)},
            "as F8_E4M3; expected F32, BF16, F16",
        ),
        (
            {"transformer.blocks.0.self_attn.q.lora_A.weight": torch.zeros(RANK, 144)},
            "the same part twice; expected one LoRA in a file",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    model: ModelFiles, path: Path, changes: dict[str, Tensor | None], message: str
) -> None:
    rewrite(path, changes)
    assert message in refusal(model, path)


def test_a_file_of_another_architecture_is_refused(model: ModelFiles, tmp_path: Path) -> None:
    path = tmp_path / "flux.safetensors"
    tensors = {"up": torch.zeros(8, 2), "down": torch.zeros(2, 8)}
    name = "transformer.single_transformer_blocks.0.attn.to_q"
    save_file({f"{name}.lora_{part}.weight": tensor for part, tensor in tensors.items()}, path)
    assert "changes no weight of" in refusal(model, path)


def test_a_dora_is_refused_by_its_metadata(model: ModelFiles, path: Path) -> None:
    save_file(load_file(path), path, {"lora_adapter_metadata": '{"transformer.use_dora": true}'})
    assert "is a DoRA; expected a LoRA" in refusal(model, path)
    save_file(load_file(path), path, {"lora_adapter_metadata": "[3"})
    assert "has metadata that cannot be read" in refusal(model, path)


def test_tensors_without_a_place_are_listed_once_for_all_blocks(
    demo_folders: DemoFolders, path: Path
) -> None:
    """A14B has no keys and values of images, which LoRAs for Wan2.1 change."""
    name = "diffusion_model.blocks.{}.cross_attn.k_img.diff"
    rewrite(path, {name.format(n): torch.zeros(144, 144) for n in range(2)})
    model = open_model(demo_folders("wan2.2-i2v-a14b"))
    found = changes_of(LoraFiles(name="a", paths=(str(path),)), model)
    assert all(changes.terms for changes in found)
    assert unused_names(found) == [
        f"diffusion_model.blocks.*.cross_attn.k_img.{end}"
        for end in ("alpha", "diff", "lora_down.weight", "lora_up.weight")
    ]


def test_a_file_may_say_which_of_two_transformers_it_is_for(
    demo_folders: DemoFolders, tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    model = open_model(demo_folders("wan2.2-i2v-a14b"))
    paths = [tmp_path / f"{part}.safetensors" for part in ("transformer", "transformer_2")]
    for path in paths:
        write_peft(path, weights, path.stem)
    kept = {
        path.stem: {name: t for name, t in load_file(path).items() if place in name}
        for path, place in zip(paths, ("attn1", "ffn"), strict=True)
    }
    both = tmp_path / "both.safetensors"
    save_file(kept["transformer"] | kept["transformer_2"], both)
    first, second = changes_of(LoraFiles(name="both", paths=(str(both),)), model)
    assert list(first.terms) == ["blocks.0.attn1.to_q.weight"]
    assert list(second.terms) == ["blocks.1.ffn.net.0.proj.weight"]
    pair = LoraFiles(name="pair", paths=(str(paths[0]), str(paths[1])))
    assert [part.path for part in changes_of(pair, model)] == paths


def test_a_pair_for_a_model_with_one_transformer_is_refused(model: ModelFiles, path: Path) -> None:
    assert "has one transformer; expected one file" in refusal(model, path, path)


def test_a_folder_offers_files_and_pairs_by_name(tmp_path: Path) -> None:
    for name in ("b", "p.high", "p.low", "lone.high", "bad name", "c", "c.low", ".hidden"):
        (tmp_path / f"{name}.safetensors").touch()
    (tmp_path / "b.txt").touch()
    found, faults = find_in_folder(tmp_path)
    assert [(lora.name, len(lora.paths)) for lora in found] == [("b", 1), ("c", 1), ("p", 2)]
    assert [Path(path).name for path in found[2].paths] == [
        "p.high.safetensors",
        "p.low.safetensors",
    ]
    assert [fault.partition(":")[0] for fault in faults] == [
        "'.hidden.safetensors'",
        "'bad name.safetensors'",
        "c.low.safetensors",
        "lone.high.safetensors",
    ]


def test_a_file_that_is_gone_has_no_hash(tmp_path: Path) -> None:
    with pytest.raises(LoraFileError, match="cannot be read: No such file"):
        LoraFiles(name="a", paths=(str(tmp_path / "a.safetensors"),)).identified()
