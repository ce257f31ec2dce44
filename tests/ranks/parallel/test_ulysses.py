"""Ulysses on small models: exact, and with few collectives."""

import pytest
import torch
import torch.distributed as dist
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor

from ranks.model.transformer import LatentShape, ShardTransformer
from ranks.parallel.layout import split_evenly
from ranks.parallel.ulysses import SequenceGroup, Shard
from tests.ranks.parallel.world import run_ranks

NUM_LAYERS = 3
NUM_HEADS = 4
SHAPE: LatentShape = (3, 6, 10)


def small_model() -> WanTransformer3DModel:
    torch.manual_seed(5)
    return WanTransformer3DModel(
        num_attention_heads=NUM_HEADS,
        attention_head_dim=12,
        in_channels=8,
        out_channels=4,
        text_dim=16,
        freq_dim=32,
        ffn_dim=64,
        num_layers=NUM_LAYERS,
        image_dim=16,
        added_kv_proj_dim=48,
    ).eval()


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(6)
    latents = torch.randn(1, 8, *SHAPE, generator=generator)
    text = torch.randn(1, 512, 16, generator=generator)
    image = torch.randn(1, 5, 16, generator=generator)
    return latents, torch.tensor([600]), text, image


def predict(rank: int, world_size: int) -> tuple[Tensor, SequenceGroup]:
    """Return the whole prediction and the group that carried it."""
    latents, timestep, text, image = inputs()
    transformer = ShardTransformer(small_model(), AttentionBackendName.NATIVE)
    sizes = split_evenly(transformer.num_tokens(SHAPE), world_size)
    group = dist.group.WORLD if world_size > 1 else None
    sequence = SequenceGroup(group, sizes, rank)
    cos, sin = transformer.rope_tables(SHAPE, torch.device("cpu"))
    shard = Shard(
        sequence=sequence,
        rope_cos=sequence.take(cos),
        rope_sin=sequence.take(sin),
        branch=0,
        step=0,
        cache=None,
    )
    condition = transformer.condition(text, image)
    (patches,) = transformer(latents, timestep, [(condition, shard)])
    return transformer.unpatchify(sequence.gather(patches), SHAPE), sequence


@torch.inference_mode()
def expected() -> Tensor:
    output: Tensor = small_model()(*inputs(), return_dict=False)[0]
    return output


@torch.inference_mode()
def test_one_rank_gives_the_prediction_of_the_stock_model() -> None:
    found, sequence = predict(0, 1)
    torch.testing.assert_close(found, expected(), rtol=0, atol=1e-5)
    assert sequence.num_collectives == 0


@pytest.mark.parametrize("world_size", [2, 4])
def test_shards_of_any_length_give_the_whole_prediction(world_size: int) -> None:
    run_ranks(world_size, check_prediction)


@torch.inference_mode()
def check_prediction(rank: int, world_size: int) -> None:
    found, sequence = predict(rank, world_size)
    torch.testing.assert_close(found, expected(), rtol=0, atol=1e-5)
    # One exchange for q, k and v and one for the output in each layer, then one gather.
    assert sequence.num_collectives == 2 * NUM_LAYERS + 1


def test_ranks_without_tokens_take_part() -> None:
    run_ranks(4, check_empty_shards)


def check_empty_shards(rank: int, world_size: int) -> None:
    sizes = split_evenly(2, world_size)
    sequence = SequenceGroup(dist.group.WORLD, sizes, rank)
    whole = torch.arange(2 * 3 * NUM_HEADS * 5.0).view(2, 3, NUM_HEADS, 5)
    by_rank = whole.split(1, dim=2)
    heads = sequence.to_heads(torch.stack([heads.split(sizes)[rank] for heads in by_rank]))
    assert torch.equal(heads, whole[:, :, rank : rank + 1])
    assert torch.equal(sequence.to_tokens(heads[:, 0]), whole[:, 0].split(sizes)[rank])
    assert torch.equal(
        sequence.gather(sequence.take(whole.flatten(1)[None])), whole.flatten(1)[None]
    )
