"""What a LoRA costs, merged and kept apart: `python -m tests.bench.loras [--json FILE]`.

Measured: one rank takes a LoRA of rank 64 on all linear layers of the blocks into the larger CPU
model and out again, against 20 guided steps. The product always merges. For comparison, the same
LoRA is also kept apart: a switch then costs nothing, and each pass multiplies by both of its
matrices. On paper: the same for 14B on eight ranks.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from broker.wire.lora import LoraChoice
from ranks.device import open_device
from ranks.loras.lora_files import LoraFiles
from ranks.loras.lora_switch import LoraSwitch
from ranks.model.transformer import LatentShape, ShardTransformer
from ranks.model.weights import load_transformers
from ranks.model_files.components import ModelFiles
from ranks.model_files.diffusers_folder import read_component
from ranks.parallel.ulysses import SequenceGroup, Shard
from tests.bench.larger_model import make_larger_transformer
from tests.bench.report import machine, write_report
from tests.ranks.model.real_models import config_of

RANK = 64
_PREFIX = "transformer.blocks"
_OF_TEXT = ("attn2.to_k", "attn2.to_v", "attn2.add_k", "attn2.add_v")
"""Layers of a block that see a few hundred tokens of text and image, once in a job."""
NUM_STEPS = 20
SHAPE: LatentShape = (5, 32, 32)
GIGA = 1e9

LINEAR_WEIGHTS = 16.148e9
"""Of the blocks of 14B."""
NUM_RANKS = 8
PAGE_CACHE_GB_S, LINK_GB_S, FLOAT32_TFLOPS = 10.0, 25.0, 20.0
"""For each rank; 20 TFLOP/s is what the slowest of the accelerators does in float32."""
H200_STEP_S = 974 / 40
"""Of 14B at 720p with guidance on one card, by LightX2V."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of processor time, all threads together, and shares of a job of 20 steps."""

    machine: dict[str, str]
    switch_in_s: float
    switch_out_s: float
    step_s: float
    share: float
    """Of a switch in the 20 steps, measured."""
    apart_step_s: float
    apart_share: float
    """What a step takes longer with the LoRA kept apart."""
    apart_error: float
    """Of a guided step's result, relative to the one with the LoRA merged."""
    weight_bytes: int
    """Of the plain transformer, in float32."""
    apart_bytes: int
    """What the LoRA adds to them while it is kept apart."""
    paper_switch_s: float
    paper_share: float
    paper_apart_bytes: int
    """For 14B in bfloat16, on each rank that holds the LoRA whole."""
    paper_apart_share: float
    """Of the operations of 14B's linear layers that see the video's tokens."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        figures = _measure(Path(folder))
    print(msgspec.json.format(msgspec.json.encode(figures), indent=1).decode())
    write_report(arguments.json, figures)


def paper_switch_s() -> float:
    """Return the seconds for 14B stored in float32, one part after the other."""
    stored_gb = 4 * LINEAR_WEIGHTS / NUM_RANKS / GIGA
    product_tflop = 2 * LINEAR_WEIGHTS * RANK / NUM_RANKS / 1e12
    return stored_gb / PAGE_CACHE_GB_S + stored_gb / LINK_GB_S + product_tflop / FLOAT32_TFLOPS


def paper_apart() -> tuple[int, float]:
    """Return the bytes in bfloat16 and the share of operations that 14B needs for a LoRA."""
    with torch.device("meta"):
        model = WanTransformer3DModel.from_config(config_of("transformer"))
    sides = {name: (m.in_features, m.out_features) for name, m in linear_layers(model.blocks)}
    seen_by_video = [
        side for name, side in sides.items() if not name.split(".", 1)[1].startswith(_OF_TEXT)
    ]
    added = RANK * sum(map(sum, seen_by_video))
    return 2 * RANK * sum(map(sum, sides.values())), added / sum(map(math.prod, seen_by_video))


def _measure(folder: Path) -> Figures:
    make_larger_transformer(folder)
    model = ModelFiles(
        place=folder,
        family="wan2.1-i2v",
        components={"transformer": read_component(folder)},
        tokenizer=folder,
        image_processor=None,
    )
    (transformer,), _ = load_transformers(model, open_device("cpu", 0, 1), None)
    blocks = transformer.model.blocks
    lora = write_lora(folder / "lora.safetensors", blocks)
    switch = LoraSwitch([transformer], model, [lora])
    choices, hashes = [LoraChoice(name=lora.name)], {lora.name: lora.hashes}
    switch.use(choices, hashes)
    merged = _guided_step(transformer)
    switch.use([], {})
    with kept_apart(blocks, Path(lora.paths[0])):
        apart = _guided_step(transformer)
    in_s, out_s, step_s, apart_s = [], [], [], []
    for _ in range(3):
        in_s.append(_processor_s(lambda: switch.use(choices, hashes)))
        step_s.append(_processor_s(lambda: _guided_step(transformer)))
        out_s.append(_processor_s(lambda: switch.use([], {})))
        with kept_apart(blocks, Path(lora.paths[0])):
            apart_s.append(_processor_s(lambda: _guided_step(transformer)))
    switch_s = max(min(in_s), min(out_s))
    paper_apart_bytes, paper_apart_share = paper_apart()
    return Figures(
        machine=machine(),
        switch_in_s=min(in_s),
        switch_out_s=min(out_s),
        step_s=min(step_s),
        share=switch_s / (NUM_STEPS * min(step_s)),
        apart_step_s=min(apart_s),
        apart_share=min(apart_s) / min(step_s) - 1,
        apart_error=((apart - merged).norm() / merged.norm()).item(),
        weight_bytes=sum(weight.nbytes for weight in transformer.model.parameters()),
        apart_bytes=sum(tensor.nbytes for tensor in load_file(lora.paths[0]).values()),
        paper_switch_s=paper_switch_s(),
        paper_share=paper_switch_s() / (NUM_STEPS * H200_STEP_S / NUM_RANKS),
        paper_apart_bytes=paper_apart_bytes,
        paper_apart_share=paper_apart_share,
    )


def linear_layers(blocks: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    for name, module in blocks.named_modules():
        if isinstance(module, nn.Linear):
            yield name, module


@contextmanager
def kept_apart(blocks: nn.Module, path: Path) -> Iterator[None]:
    """Add a LoRA to the results of the linear layers instead of to their weights."""
    tensors = load_file(path)
    hooks = []
    for name, linear in linear_layers(blocks):
        down, up = (tensors[f"{_PREFIX}.{name}.lora_{side}.weight"] for side in "AB")
        hooks.append(linear.register_forward_hook(partial(_with_change, down, up)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _with_change(
    down: Tensor, up: Tensor, linear: nn.Module, inputs: tuple[Tensor], output: Tensor
) -> Tensor:
    return output + F.linear(F.linear(inputs[0], down), up)


def write_lora(path: Path, blocks: nn.Module) -> LoraFiles:
    tensors: dict[str, Tensor] = {}
    for name, linear in linear_layers(blocks):
        start = f"{_PREFIX}.{name}"
        tensors[f"{start}.lora_A.weight"] = torch.randn(RANK, linear.in_features) * 0.01
        tensors[f"{start}.lora_B.weight"] = torch.randn(linear.out_features, RANK) * 0.01
    save_file(tensors, path)
    return LoraFiles(name="lora", paths=(str(path),)).identified()


def _guided_step(transformer: ShardTransformer) -> Tensor:
    """Return the velocities of both branches: the same for the same weights."""
    torch.manual_seed(2)
    config = transformer.model.config
    num_tokens = transformer.num_tokens(SHAPE)
    cos, sin = transformer.rope_tables(SHAPE, torch.device("cpu"))
    condition = transformer.condition(
        torch.randn(1, 512, config.text_dim), torch.randn(1, 257, config.image_dim)
    )
    shard = Shard(
        sequence=SequenceGroup(None, [num_tokens], 0),
        rope_cos=cos,
        rope_sin=sin,
        branch=0,
        step=0,
        cache=None,
        timestep_rows=None,
    )
    velocities: list[Tensor] = []
    for _ in range(2):
        latents = torch.randn(1, config.in_channels, *SHAPE)
        velocities += transformer(latents, torch.tensor([500]), [(condition, shard)])
    return torch.cat(velocities)


def _processor_s(work: Callable[[], object]) -> float:
    before_s = time.process_time()
    work()
    return time.process_time() - before_s


if __name__ == "__main__":
    main()
