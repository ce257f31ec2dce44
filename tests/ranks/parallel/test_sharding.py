from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from transformers import UMT5Config, UMT5EncoderModel

from ranks.errors import ModelFolderError
from ranks.model_files.diffusers_folder import read_component
from ranks.parallel.sharding import (
    load_weights,
    num_weight_bytes,
    set_sharded,
    shard_text_encoder,
    shard_transformer,
)
from tests.ranks.parallel.world import run_ranks

WORLD_SIZE = 3
"""It divides no size of the models, so the last rank's slices are shorter or empty."""

CPU = torch.device("cpu")


def small_transformer() -> WanTransformer3DModel:
    torch.manual_seed(3)
    model: WanTransformer3DModel = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=36,
        out_channels=16,
        text_dim=24,
        freq_dim=32,
        ffn_dim=40,
        num_layers=3,
        image_dim=20,
        added_kv_proj_dim=32,
        rope_max_seq_len=64,
    )
    # Some weights start as zeros, which would hide a misplaced slice.
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.1)
    return model


def run_transformer(model: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    output: tuple[Tensor] = model(
        hidden_states=torch.randn(1, 36, 2, 8, 8, generator=generator).to(dtype),
        timestep=torch.tensor([500]),
        encoder_hidden_states=torch.randn(1, 5, 24, generator=generator).to(dtype),
        encoder_hidden_states_image=torch.randn(1, 4, 20, generator=generator).to(dtype),
        return_dict=False,
    )
    return output[0]


def run_transformer_in_bfloat16(model: nn.Module) -> Tensor:
    return run_transformer(model, torch.bfloat16)


def in_evaluation(model: UMT5EncoderModel) -> UMT5EncoderModel:
    """Turn dropout off, as `from_pretrained` does."""
    nn.Module.eval(model)
    return model


def small_text_encoder() -> UMT5EncoderModel:
    torch.manual_seed(4)
    config = UMT5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=44, num_layers=2, num_heads=4)
    return in_evaluation(UMT5EncoderModel(config))


def run_text_encoder(model: nn.Module) -> Tensor:
    output: Tensor = model(torch.tensor([[3, 14, 15, 9, 2, 6]])).last_hidden_state
    return output


def meta_transformer(folder: Path) -> WanTransformer3DModel:
    with torch.device("meta"):
        model: WanTransformer3DModel = WanTransformer3DModel.from_config(
            WanTransformer3DModel.load_config(folder)
        )
    return model


def meta_text_encoder(folder: Path) -> UMT5EncoderModel:
    with torch.device("meta"):
        return in_evaluation(UMT5EncoderModel(UMT5Config.from_pretrained(folder)))


def check_both_ways_of_storing(
    model: nn.Module, run: Callable[[nn.Module], Tensor], reference: nn.Module
) -> None:
    slices = num_weight_bytes(model)
    expected = run(reference)
    # Twice, so that each way of storing follows the other in one loaded model.
    for sharded in (True, False, True, False):
        set_sharded(model, sharded)
        for _ in range(2):
            assert torch.equal(run(model), expected)
        assert num_weight_bytes(model) == (slices if sharded else num_weight_bytes(reference))
    set_sharded(model, True)
    assert num_weight_bytes(model) == slices


@torch.no_grad()
def load_and_run_transformer(rank: int, world_size: int, folder: Path) -> None:
    model = meta_transformer(folder)
    in_blocks = num_weight_bytes(model.blocks)
    elsewhere = num_weight_bytes(model) - in_blocks
    shard_transformer(model, model, init_device_mesh("cpu", (world_size,)))
    load_weights(model, read_component(folder), CPU)
    reference = small_transformer()
    model.rope = reference.rope
    # If the rows do not divide evenly, the first ranks hold more.
    assert num_weight_bytes(model) <= elsewhere + in_blocks / world_size * 1.2
    check_both_ways_of_storing(model, run_transformer, reference)


def test_a_sharded_transformer_gives_identical_results(tmp_path: Path) -> None:
    small_transformer().save_pretrained(tmp_path)
    run_ranks(WORLD_SIZE, load_and_run_transformer, tmp_path)


@torch.inference_mode()
def load_and_run_in_two_dtypes(rank: int, world_size: int, folder: Path) -> None:
    model, reference = meta_transformer(folder), small_transformer()
    for halved in (model, reference):
        nn.Module.to(halved, torch.bfloat16)
        for block in halved.blocks:
            block.get_submodule("norm2").float()
            block.scale_shift_table.data = block.scale_shift_table.data.float()
    shard_transformer(model, model, init_device_mesh("cpu", (world_size,)))
    load_weights(model, read_component(folder), CPU)
    load_weights(reference, read_component(folder), CPU)
    model.rope = reference.rope = small_transformer().rope
    check_both_ways_of_storing(model, run_transformer_in_bfloat16, reference)


def test_a_transformer_keeps_some_weights_in_float32(tmp_path: Path) -> None:
    small_transformer().save_pretrained(tmp_path)
    run_ranks(WORLD_SIZE, load_and_run_in_two_dtypes, tmp_path)


@torch.no_grad()
def load_and_run_text_encoder(rank: int, world_size: int, folder: Path) -> None:
    model = meta_text_encoder(folder)
    shard_text_encoder(model, init_device_mesh("cpu", (world_size,)))
    load_weights(model, read_component(folder), CPU)
    reference = small_text_encoder()
    check_both_ways_of_storing(model, run_text_encoder, reference)


def test_a_sharded_text_encoder_gives_identical_results(tmp_path: Path) -> None:
    small_text_encoder().save_pretrained(tmp_path)
    run_ranks(WORLD_SIZE, load_and_run_text_encoder, tmp_path)


@torch.no_grad()
def fail_within_a_block(rank: int, world_size: int, folder: Path) -> None:
    model = meta_transformer(folder)
    shard_transformer(model, model, init_device_mesh("cpu", (world_size,)))
    load_weights(model, read_component(folder), CPU)
    model.rope = small_transformer().rope
    expected = run_transformer(model)
    slices = num_weight_bytes(model)

    def fail(*_: object) -> None:
        raise MemoryError("out of memory")

    for sharded in (True, False):
        set_sharded(model, sharded)
        hook = model.blocks[1].get_submodule("ffn").register_forward_pre_hook(fail)
        with pytest.raises(MemoryError):
            run_transformer(model)
        hook.remove()
        set_sharded(model, True)
        assert num_weight_bytes(model) == slices
        assert torch.equal(run_transformer(model), expected)


def test_a_failure_within_a_block_frees_the_gathered_weights(tmp_path: Path) -> None:
    small_transformer().save_pretrained(tmp_path)
    run_ranks(WORLD_SIZE, fail_within_a_block, tmp_path)


@torch.no_grad()
def test_a_text_encoder_on_one_rank_shares_its_embedding(tmp_path: Path) -> None:
    reference = small_text_encoder()
    reference.save_pretrained(tmp_path)
    model = meta_text_encoder(tmp_path)
    load_weights(model, read_component(tmp_path), CPU)
    assert model.shared.weight is model.encoder.embed_tokens.weight
    assert num_weight_bytes(model) == num_weight_bytes(reference)
    assert torch.equal(run_text_encoder(model), run_text_encoder(reference))


def test_weights_in_several_files_are_found(tmp_path: Path) -> None:
    reference = small_transformer()
    reference.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    model = meta_transformer(tmp_path)
    load_weights(model, read_component(tmp_path), CPU)
    for name, weight in reference.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)


def test_weights_are_converted_to_the_dtype_of_the_model(tmp_path: Path) -> None:
    reference = small_transformer()
    reference.save_pretrained(tmp_path)
    model = meta_transformer(tmp_path)
    nn.Module.to(model, torch.bfloat16)
    load_weights(model, read_component(tmp_path), CPU)
    assert torch.equal(model.proj_out.weight, reference.proj_out.weight.bfloat16())


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    small_transformer().save_pretrained(tmp_path)
    model = meta_transformer(tmp_path)
    model.extra = nn.Linear(2, 2, device="meta")
    with pytest.raises(ModelFolderError, match=r"holds no weight extra\.weight"):
        load_weights(model, read_component(tmp_path), CPU)


def test_a_weight_of_the_wrong_shape_is_named(tmp_path: Path) -> None:
    small_transformer().save_pretrained(tmp_path)
    model = meta_transformer(tmp_path)
    model.proj_out = nn.Linear(31, 64, device="meta")
    with pytest.raises(ModelFolderError, match=r"proj_out.weight has the shape \[64, 32\]"):
        load_weights(model, read_component(tmp_path), CPU)
