"""What changing LoRAs between jobs costs: `python -m tests.bench.loras [--json FILE]`.

Measured: one rank takes a LoRA of rank 64 on all linear layers of the blocks into the larger CPU
model and out again, against 20 guided steps. On paper: the same for 14B on eight ranks.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

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

RANK = 64
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
    paper_switch_s: float
    paper_share: float


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
    lora = write_lora(folder / "lora.safetensors", transformer.model.blocks)
    switch = LoraSwitch([transformer], model, [lora])
    choices, hashes = [LoraChoice(name=lora.name)], {lora.name: lora.hashes}
    in_s, out_s, step_s = [], [], []
    for _ in range(3):
        in_s.append(_processor_s(lambda: switch.use(choices, hashes)))
        step_s.append(_processor_s(lambda: _guided_step(transformer)))
        out_s.append(_processor_s(lambda: switch.use([], {})))
    switch_s = max(min(in_s), min(out_s))
    return Figures(
        machine=machine(),
        switch_in_s=min(in_s),
        switch_out_s=min(out_s),
        step_s=min(step_s),
        share=switch_s / (NUM_STEPS * min(step_s)),
        paper_switch_s=paper_switch_s(),
        paper_share=paper_switch_s() / (NUM_STEPS * H200_STEP_S / NUM_RANKS),
    )


def write_lora(path: Path, blocks: nn.Module) -> LoraFiles:
    tensors: dict[str, Tensor] = {}
    for name, module in blocks.named_modules():
        if isinstance(module, nn.Linear):
            start = f"transformer.blocks.{name}"
            tensors[f"{start}.lora_A.weight"] = torch.randn(RANK, module.in_features) * 0.01
            tensors[f"{start}.lora_B.weight"] = torch.randn(module.out_features, RANK) * 0.01
    save_file(tensors, path)
    return LoraFiles(name="lora", paths=(str(path),)).identified()


def _guided_step(transformer: ShardTransformer) -> None:
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
    for _ in range(2):
        latents = torch.randn(1, config.in_channels, *SHAPE)
        transformer(latents, torch.tensor([500]), [(condition, shard)])


def _processor_s(work: Callable[[], None]) -> float:
    before_s = time.process_time()
    work()
    return time.process_time() - before_s


if __name__ == "__main__":
    main()
