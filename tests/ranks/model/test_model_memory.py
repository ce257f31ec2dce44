"""Compares the estimate with the 14B architecture on the meta device, and with small models."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from broker.wire.job_memory import GroupMemory
from broker.wire.model_profile import Family
from ranks.families.family import ModelFamily
from ranks.families.wan21_flf2v import FirstAndLastFrame
from ranks.families.wan21_i2v import ImageToVideo
from ranks.families.wan22_i2v_a14b import TwoExperts
from ranks.families.wan22_ti2v_5b import FirstLatentFrame
from ranks.model.model_memory import measure
from ranks.model.transformer import ShardTransformer
from ranks.model.vae import GivenClip, decode_chunks, encode_chunks
from ranks.model_files.memory_estimate import usable_bytes
from ranks.parallel.layout import Layout, split_evenly
from ranks.parallel.process_group import World
from ranks.parallel.sharding import num_weight_bytes, shard_text_encoder, shard_transformer
from ranks.parallel.ulysses import SequenceGroup, Shard
from ranks.parallel.vae_split import VaeSplit
from tests.ranks.model.peak_memory import PeakMemory
from tests.ranks.model.real_models import real_models, real_transformer, real_vae
from tests.ranks.parallel.world import run_ranks

WORLD_SIZE = 8
FAMILIES: dict[Family, ModelFamily] = {
    "wan2.1-i2v": ImageToVideo(),
    "wan2.1-flf2v": FirstAndLastFrame(),
    "wan2.2-i2v-a14b": TwoExperts(0.9),
    "wan2.2-ti2v-5b": FirstLatentFrame(),
}
LAYOUTS = [(cfg, ulysses) for cfg in (1, 2) for ulysses in (1, 2, 4, 8) if cfg * ulysses <= 8]


def measured(world_size: int) -> GroupMemory:
    transformer, *others = real_models()
    return measure(
        [transformer],
        *others,
        num_embedded_images=1,
        world_size=world_size,
        capacity_bytes=64 * 2**30,
    )


def num_linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def test_the_14b_transformer_has_the_parameters_of_its_published_dimensions() -> None:
    width, ffn, text, image, num_layers = 5120, 13824, 4096, 1280, 40
    attention = 4 * num_linear(width, width) + 2 * width  # projections, norms of query and key
    image_attention = 2 * num_linear(width, width) + width
    feed_forward = num_linear(width, ffn) + num_linear(ffn, width)
    block = 2 * attention + image_attention + feed_forward + 2 * width + 6 * width
    embedders = [
        num_linear(36 * 4, width),
        num_linear(256, width) + num_linear(width, width) + num_linear(width, 6 * width),
        num_linear(text, width) + num_linear(width, width),
        2 * image + num_linear(image, image) + num_linear(image, width) + 2 * width,
    ]
    head = num_linear(width, 16 * 4) + 2 * width
    expected = num_layers * block + sum(embedders) + head

    transformer, *_ = real_models()
    assert sum(weight.numel() for weight in transformer.parameters()) == expected
    assert expected == 16_394_878_784


@pytest.mark.parametrize(
    ("family", "num_parameters", "num_vae_parameters"),
    [
        ("wan2.1-flf2v", 16_395_536_704, 126_892_531),
        ("wan2.2-i2v-a14b", 14_288_901_184, 126_892_531),
        ("wan2.2-ti2v-5b", 4_999_787_712, 704_688_668),
    ],
)
def test_each_family_has_its_published_number_of_parameters(
    family: Family, num_parameters: int, num_vae_parameters: int
) -> None:
    for model, expected in (
        (real_transformer(family), num_parameters),
        (real_vae(family), num_vae_parameters),
    ):
        assert sum(weight.numel() for weight in model.parameters()) == expected


def test_a_model_with_two_transformers_holds_both_and_gathers_one() -> None:
    _, text_encoder, _, vae = real_models()
    expert = real_transformer("wan2.2-i2v-a14b")
    one, two = (
        measure(
            [expert] * count,
            text_encoder,
            None,
            vae,
            num_embedded_images=0,
            world_size=8,
            capacity_bytes=64 * 2**30,
        )
        for count in (1, 2)
    )
    in_blocks = num_weight_bytes(expert.blocks)
    outside = num_weight_bytes(expert) - in_blocks
    assert two.weights_bytes - one.weights_bytes == pytest.approx(outside + in_blocks / 8)
    assert two.dit_gathered_bytes == one.dit_gathered_bytes == in_blocks
    with_images = measured(8).condition_bytes
    assert with_images / one.condition_bytes == pytest.approx((512 + 257) / 512)


def test_a_single_rank_holds_every_weight() -> None:
    held = sum(num_weight_bytes(model) for model in real_models())
    memory = measured(1)
    assert memory.weights_bytes == held
    assert memory.dit_gathered_bytes == memory.t5_gathered_bytes == memory.dit_blocks_bytes == 0


class FakeWorld(World):
    """A world without a control group, which the fake backend does not support."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank = rank
        self.world_size = world_size
        self._groups = {}


@pytest.fixture
def world() -> Iterator[World]:
    """Rank 3 of 8, with collectives that compute shapes only."""
    dist.init_process_group("fake", rank=3, world_size=WORLD_SIZE, store=FakeStore())
    yield FakeWorld(3, WORLD_SIZE)
    dist.destroy_process_group()


def test_sharded_weights_take_the_estimated_memory(world: World) -> None:
    transformer, text_encoder, image_encoder, vae = real_models()
    mesh = init_device_mesh("cpu", (WORLD_SIZE,))
    shard_transformer(transformer, transformer, mesh)
    shard_text_encoder(text_encoder, mesh)
    held = sum(num_weight_bytes(m) for m in (transformer, text_encoder, image_encoder, vae))
    assert measured(WORLD_SIZE).weights_bytes == pytest.approx(held, rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_rank_gets_its_slices_of_each_family(world: World, family: Family) -> None:
    transformer = real_transformer(family)
    in_blocks = num_weight_bytes(transformer.blocks)
    outside = num_weight_bytes(transformer) - in_blocks
    shard_transformer(transformer, transformer, init_device_mesh("cpu", (WORLD_SIZE,)))
    held = num_weight_bytes(transformer)
    assert held == pytest.approx(outside + in_blocks / WORLD_SIZE, rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("cfg_size", "ulysses_size"), LAYOUTS)
@torch.inference_mode()
def test_every_layout_can_split_the_tokens_of_each_family(
    world: World, cfg_size: int, ulysses_size: int, family: Family
) -> None:
    layout = Layout(world_size=WORLD_SIZE, cfg_size=cfg_size, ulysses_size=ulysses_size)
    sequence_group = world.groups(layout).ulysses
    made = FAMILIES[family]
    transformer = real_transformer(family, num_layers=2)
    config = transformer.config
    shape = (31, 44, 80) if config.in_channels == config.out_channels else (21, 90, 160)
    model = ShardTransformer(transformer, AttentionBackendName.NATIVE)
    sizes = split_evenly(model.num_tokens(shape), ulysses_size)
    num_images = made.num_embedded_images
    with torch.device("meta"):
        latents = torch.empty(1, config.in_channels, *shape)
        tables = torch.empty(2, 1, sum(sizes), 1, 128 // 2)
        images = torch.empty(num_images, 257, 1280) if num_images else None
        condition = model.condition(torch.empty(1, 512, 4096), images)
        sequence = SequenceGroup(sequence_group, sizes, layout.shard(world.rank))
        cos, sin = (sequence.take(table) for table in tables)
        rows = made.timestep_rows(shape[0], sum(sizes))
        shard = Shard(
            sequence=sequence,
            rope_cos=cos,
            rope_sin=sin,
            branch=0,
            step=0,
            cache=None,
            timestep_rows=None if rows is None else sequence.take(rows.unsqueeze(0))[0],
        )
        timesteps = made.timesteps(torch.empty(()))
        with PeakMemory() as memory:
            patches, _ = model(latents, timesteps, [(condition, shard)] * 2)
    num_tokens = sizes[layout.shard(world.rank)]
    assert patches.shape == (1, num_tokens, 4 * config.out_channels)
    expected = _token_bytes(transformer) * num_tokens
    assert expected / 2 < memory.peak_bytes < expected


def _token_bytes(transformer: WanTransformer3DModel) -> int:
    _, *others = real_models()
    memory = measure([transformer], *others, num_embedded_images=1, world_size=8, capacity_bytes=0)
    return memory.token_bytes


@pytest.mark.parametrize("family", ["wan2.1-i2v", "wan2.2-ti2v-5b"])
@torch.inference_mode()
def test_the_vae_takes_the_estimated_memory(family: Family) -> None:
    vae = real_vae(family)
    scale = vae.config.scale_factor_spatial
    with torch.device("meta"):
        latents = torch.empty(1, vae.config.z_dim, 3, 24, 32)
        image = torch.empty(1, 3, 24 * scale, 32 * scale)
    transformer, text_encoder, image_encoder, _ = real_models()
    memory = measure(
        [transformer],
        text_encoder,
        image_encoder,
        vae,
        num_embedded_images=1,
        world_size=1,
        capacity_bytes=0,
    )
    expected = memory.pixel_bytes * image[0, 0].numel()
    with PeakMemory() as decoding:
        for _ in decode_chunks(vae, latents):
            pass
    assert expected * 0.7 < decoding.peak_bytes < expected
    with PeakMemory() as encoding:
        for _ in encode_chunks(vae, GivenClip(9, image)):
            pass
    assert encoding.peak_bytes < expected


@torch.inference_mode()
def decode_a_patch(rank: int, world_size: int) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=8)
    height, width = 24, 28
    latents = torch.zeros(1, 16, 3, height, width)
    with VaeSplit(vae, rank, world_size).active(height, width) as patch, PeakMemory() as memory:
        assert patch is not None
        for _ in decode_chunks(vae, latents, patch):
            pass
    num_pixels = height * width * 64
    unsplit_bytes = 52 * 8 * 4 * num_pixels  # as `PeakMemory` counts without the split
    # Every rank holds the chunk's whole frames; in the real VAE, 12 times as wide, they are small.
    frames_bytes = 3 * (4 * 3 * 4 * num_pixels)
    assert memory.peak_bytes < unsplit_bytes / world_size * 1.15 + frames_bytes


def test_eight_ranks_need_about_an_eighth_of_the_memory_to_decode() -> None:
    run_ranks(WORLD_SIZE, decode_a_patch)


def test_a_device_leaves_a_tenth_and_a_large_one_at_least_8_gb() -> None:
    card_gb = {size: size * 10**9 - usable_bytes(size * 10**9) for size in (24, 64, 80, 141)}
    expected_gb = {24: 2.4, 64: 8.0, 80: 8.0, 141: 14.1}
    for size, margin in card_gb.items():
        assert margin / 1e9 == pytest.approx(expected_gb[size], abs=0.07)
