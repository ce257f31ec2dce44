"""The estimates of the benchmark model match the code's operations and the server's layout."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.flop_counter import FlopCounterMode

from broker.wire.group_shape import GroupShape, choose_layout
from broker.wire.job import JobSpec
from ranks.model.transformer import LatentShape, ShardTransformer
from ranks.model.vae import decode_chunks, encode_clip
from ranks.parallel.layout import split_evenly
from ranks.parallel.ulysses import Condition, SequenceGroup, Shard
from tests.bench.budget import Parts
from tests.bench.cost import (
    COMPILED_BYTES,
    NPU_BYTES,
    PLAIN_BYTES,
    VAE_DECODE_FLOPS,
    VAE_ENCODE_FLOPS,
    Clip,
    forward_flops,
    forward_traffic,
)
from tests.bench.goals import TUNED, goals, goals_table
from tests.bench.kernel_bytes import NUM_SHARDS, block_bytes, npu_block_bytes
from tests.bench.machines import Layout, step_s, video_s
from tests.bench.model import (
    EIGHT,
    GROUPS,
    OPTIONS,
    Group,
    Option,
    measured,
    predict,
    predictions,
    table,
)
from tests.ranks.model.real_models import config_of

WORLD_SIZE = 8
HD: LatentShape = (21, 90, 160)


@pytest.fixture
def world() -> Iterator[None]:
    """Rank 3 of 8, with collectives that only have shapes."""
    dist.init_process_group("fake", rank=3, world_size=WORLD_SIZE, store=FakeStore())
    yield
    dist.destroy_process_group()


def forward(sequence: SequenceGroup, num_passes: int) -> None:
    """Run the 14B transformer on the meta device; later passes reuse the first one's conditions."""
    with torch.device("meta"), torch.inference_mode():
        model = ShardTransformer(
            WanTransformer3DModel.from_config(config_of("transformer")).to(torch.bfloat16),
            AttentionBackendName.NATIVE,
        )
        text, image = (torch.empty(1, n, 5120, dtype=model.dtype) for n in (512, 257))
        condition = Condition(text, image)
        cos, sin = (sequence.take(table) for table in model.rope_tables(HD, torch.device("meta")))
        shard = Shard(sequence=sequence, rope_cos=cos, rope_sin=sin, branch=0, step=0, cache=None)
        for _ in range(num_passes):
            (patches,) = model(torch.empty(1, 36, *HD), torch.empty(1), [(condition, shard)])
            sequence.gather(patches)


def test_a_step_takes_the_operations_that_torch_counts() -> None:
    sequence = SequenceGroup(None, [75_600], 0)
    counted = []
    for num_passes in (1, 2):
        with FlopCounterMode(display=False) as counter:
            forward(sequence, num_passes)
        counted.append(counter.get_total_flops())
    flops = forward_flops(Clip())
    assert counted[1] - counted[0] == pytest.approx(flops.total, rel=1e-4)
    assert 2 * flops.total == pytest.approx(13.1e15, rel=0.005)


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("ulysses_size", [4, 8])
def test_a_forward_pass_sends_what_the_model_says(ulysses_size: int) -> None:
    group = dist.new_group(list(range(ulysses_size)))
    sequence = SequenceGroup(group, split_evenly(75_600, ulysses_size), 3)
    forward(sequence, 1)
    traffic = forward_traffic(Clip(), ulysses_size)
    assert sequence.num_collectives == traffic.num_collectives
    # The ranks count whole buffers, of which a part stays where it is; the gather sends copies.
    sent = sequence.num_bytes_sent * (ulysses_size - 1) / ulysses_size
    assert sent == pytest.approx(traffic.num_bytes, rel=0.02)


@torch.inference_mode()
def test_the_vae_takes_the_operations_that_torch_counts() -> None:
    with torch.device("meta"):
        vae = AutoencoderKLWan.from_config(config_of("vae"))
        with FlopCounterMode(display=False) as decoding:
            list(decode_chunks(vae, torch.empty(1, 16, *HD)))
        with FlopCounterMode(display=False) as encoding:
            encode_clip(vae, torch.empty(1, 3, 81, 720, 1280))
    pixels = 1280 * 720 * 81
    assert decoding.get_total_flops() == pytest.approx(VAE_DECODE_FLOPS * pixels, rel=0.01)
    assert encoding.get_total_flops() == pytest.approx(VAE_ENCODE_FLOPS * pixels, rel=0.01)


def test_element_wise_operations_move_the_bytes_that_are_counted() -> None:
    for is_fused, num_bytes in ((False, PLAIN_BYTES), (True, COMPILED_BYTES)):
        counted = block_bytes(is_fused=is_fused) / Clip().num_tokens
        assert counted == pytest.approx(num_bytes, rel=0.01)
    of_npu = npu_block_bytes("vendor") * NUM_SHARDS / Clip().num_tokens
    assert of_npu == pytest.approx(NPU_BYTES, rel=0.01)


@pytest.mark.parametrize("group", GROUPS[:3], ids=lambda group: str(group.name))
@pytest.mark.parametrize(("guidance_scale", "num_branches"), [(5.0, 2), (1.0, 1)])
def test_the_server_chooses_the_layout_that_the_model_finds_fastest(
    group: Group, guidance_scale: float, num_branches: int
) -> None:
    spec = JobSpec(prompt="a boat on a lake", guidance_scale=guidance_scale)
    chosen = choose_layout(spec, GroupShape(world_size=WORLD_SIZE, num_heads=40))
    found = predict(group, Option(name="", clip=Clip(num_branches=num_branches))).layout
    assert (found.cfg_size, found.ulysses_size) == chosen


def test_every_option_is_faster_than_a_plain_video() -> None:
    for group in GROUPS:
        plain, *others = (predict(group, option).video_s for option in OPTIONS)
        assert all(other < plain for other in others)


def test_the_documents_show_the_estimates_and_claim_no_measurement() -> None:
    text = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()
    _, _, on_devices = text.partition("\n## Real size\n")
    real_size, _, rest = on_devices.partition("\n## Estimates for real devices\n")
    estimates, _, _ = rest.partition("\n## ")
    assert real_size.lstrip().startswith("**Not measured")
    assert estimates.lstrip().startswith("**Estimates, not measured**")
    assert table(predictions()) in estimates
    assert goals_table() in estimates


def test_each_goal_is_met_at_the_rate_that_it_takes() -> None:
    for goal in goals():
        assert goal.goal_s < goal.served_s
        assert goal.tuned_s < goal.served_s
    exact, *_ = goals()
    machine = replace(TUNED, attention_tflops=exact.attention_tflops)
    assert step_s(machine, Clip(), Layout()) == pytest.approx(exact.goal_s)


def test_what_was_measured_on_a_device_becomes_a_machine(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "found.jsonl", budget_s=60)
    for name, figure in (
        ("machine", {"device": "H200"}),
        ("step", {"step_s": 18.0}),
        ("split", {"attention_s": 1.2, "linear_s": 0.5, "rest_s": 0.1}),
        ("vae/float32, encode", {"clip_s": 5.0}),
        ("vae/float32, decode", {"clip_s": 7.0}),
    ):
        parts.run(name, 5, partial(dict, figure))
    alone, machine = Layout(), measured(tmp_path / "found.jsonl")
    assert step_s(machine, Clip(), alone) == pytest.approx(18.0)
    assert video_s(machine, Clip(), alone) == pytest.approx(40 * 18.0 + 12.0)
    assert step_s(machine, Clip(), EIGHT[1]) == pytest.approx(18.0 / 8, rel=0.06)
