"""8-bit weights under FSDP: each rank holds, reads and rounds its own rows only."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

from broker.wire.job_memory import GroupMemory
from broker.wire.model_profile import EightBit
from ranks.device import Device
from ranks.model.model_memory import measure
from ranks.model.quantized_linear import (
    DTYPES,
    QuantizedLinear,
    install_8bit,
    longest_sides,
    multiply_fused,
)
from ranks.model.transformer import ShardTransformer
from ranks.model.weights import load_transformer
from ranks.model_files.components import Component
from ranks.model_files.opened_model import open_model
from ranks.model_files.quantization import Quantize, work_bytes
from ranks.model_files.weight_memory import weight_bytes
from ranks.parallel.sharding import num_weight_bytes, set_sharded
from tests.ranks.model.real_models import real_models
from tests.ranks.one_pass import velocity
from tests.ranks.parallel.world import run_ranks

WORLD_SIZE = 2
CPU = Device(kind="cpu", index=0)
PLAIN_ITEM_BYTES = 4  # of the demo, which computes in float32


def transformer_in(folder: Path, form: EightBit | None) -> Component:
    quantize = None if form is None else Quantize(form)
    return open_model(folder, quantize=quantize).components["transformer"]


def block_bytes(transformer: ShardTransformer) -> int:
    return num_weight_bytes(transformer.model.blocks)


def expected_saving(component: Component) -> int:
    """Return by how much 8-bit numbers are smaller, with a float32 factor for each row."""
    shapes = [component.weights[name].shape for name in component.quantized]
    return sum(rows * columns * (PLAIN_ITEM_BYTES - 1) - 4 * rows for rows, columns in shapes)


@torch.inference_mode()
def compare_with_one_rank(rank: int, world_size: int, folder: Path) -> None:
    mesh = init_device_mesh("cpu", (world_size,))
    plain = load_transformer(transformer_in(folder, None), CPU, mesh)
    for form in get_args(EightBit):
        component = transformer_in(folder, form)
        whole = load_transformer(component, CPU, None)
        sharded = load_transformer(component, CPU, mesh)
        saved = block_bytes(plain) - block_bytes(sharded)
        assert saved == expected_saving(component) // world_size
        assert block_bytes(sharded) < 0.3 * block_bytes(plain)
        slices = num_weight_bytes(sharded)
        expected = velocity(whole)
        for is_sharded in (True, False, True):
            set_sharded(sharded, is_sharded)
            assert torch.equal(velocity(sharded), expected)
        assert num_weight_bytes(sharded) == slices
        set_sharded(sharded, sharded=False)
        velocity(sharded)
        assert num_weight_bytes(sharded) == num_weight_bytes(whole)
        (dtype,) = (dtype for dtype, name in DTYPES.items() if name == form)
        layer = sharded.model.blocks[0].ffn.net[2]
        assert isinstance(layer, QuantizedLinear)
        assert (layer.weight.dtype, layer.weight_scale.dtype) == (dtype, torch.float32)


def test_two_ranks_hold_half_of_the_8_bit_weights_each_and_compute_the_bits_of_one_rank(
    demo_folder: Path,
) -> None:
    """Bytes are counted, because a switch that does nothing also gives equal results."""
    run_ranks(WORLD_SIZE, compare_with_one_rank, demo_folder)


@pytest.mark.parametrize("form", get_args(EightBit))
@pytest.mark.parametrize("num_ranks", [1, 8])
def test_the_inspection_counts_8_bit_weights(
    demo_folder: Path, form: EightBit, num_ranks: int
) -> None:
    plain = open_model(demo_folder)
    quantized = open_model(demo_folder, quantize=Quantize(form))
    component = quantized.components["transformer"]
    shapes = [component.weights[name].shape for name in component.quantized]
    # Where accelerators hold plain weights in bfloat16.
    saved = sum(rows * columns - 4 * rows for rows, columns in shapes) // num_ranks
    found = weight_bytes(plain, num_ranks) - weight_bytes(quantized, num_ranks)
    assert abs(found - saved) <= 1  # of a division that rounds up


def test_the_estimate_of_the_14b_model_counts_8_bit_weights() -> None:
    transformer, *others = real_models()

    def estimate() -> GroupMemory:
        return measure(
            [transformer],
            *others,
            num_embedded_images=1,
            world_size=8,
            capacity_bytes=64 << 30,
        )

    plain = estimate()
    linears = [
        f"blocks.{name}"
        for name, weight in transformer.blocks.named_parameters()
        if weight.dim() == 2
    ]
    install_8bit(transformer, linears, "fp8", multiply_fused)
    quantized = estimate()
    # Of 32.3 GB in bfloat16.
    assert plain.dit_gathered_bytes / quantized.dit_gathered_bytes == pytest.approx(2, rel=0.01)
    saved = plain.dit_gathered_bytes - quantized.dit_gathered_bytes
    found = plain.weights_bytes - quantized.weights_bytes + work_bytes(longest_sides(transformer))
    assert found == pytest.approx(saved / 8, abs=8)
    assert 0 < work_bytes(longest_sides(transformer)) < 600e6
