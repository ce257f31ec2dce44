"""What keeping weights in host memory costs: `python -m tests.bench.offload`.

Measured with the larger transformer on the CPU, where a copy hides behind nothing; counted for the
14B model, where it hides if a block computes for longer than the next one is copied.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from ranks.device import Device
from ranks.model.block_streaming import BlockStreaming
from ranks.model.transformer import LatentShape, ShardTransformer
from ranks.model.weights import fill_transformer, meta_transformer
from ranks.model_files.diffusers_folder import read_component
from ranks.model_files.memory_estimate import sizes_of
from ranks.parallel.ulysses import SequenceGroup, Shard
from tests.bench.anchors import ASCEND, H100, H200, HD, RTX_4090, SD
from tests.bench.cards import real_files
from tests.bench.engine_steps import CPU, Job
from tests.bench.larger_model import make_larger_transformer
from tests.bench.machines import Layout, step_s

PCIE_GB_S = {"PCIe 4.0": 25.0, "PCIe 5.0": 50.0}
"""What copies from pinned memory reach over 16 lanes: estimates."""
SHAPE: LatentShape = (5, 32, 32)
NUM_ROUNDS = 3


def main() -> None:
    for row in (*measured(), "", *counted()):
        print(row)


def measured() -> Iterator[str]:
    """Yield what a step of both guidance branches takes, and what it copies."""
    yield f"{'CPU':12} {'step':>9} {'blocks on the device':>22} {'copied in a step':>18}"
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        make_larger_transformer(Path(folder))
        for num_resident in (None, 2, 1, 0):
            yield _measured(Path(folder), num_resident)


def _measured(folder: Path, num_resident: int | None) -> str:
    component, device = read_component(folder), Device(kind="cpu", index=0)
    model = meta_transformer(component, torch.float32)
    root = ShardTransformer(model, device.attention_backend)
    fill_transformer(model, component, CPU)
    blocks = list(model.blocks)
    name = "resident" if num_resident is None else f"blocks:{num_resident}"
    streaming = BlockStreaming(
        blocks, len(blocks) if num_resident is None else num_resident, device
    )
    streaming.place()
    step = _Step(root)
    step.time_s()
    before = streaming.num_copies
    times = [step.time_s() for _ in range(NUM_ROUNDS)]
    num_copied = (streaming.num_copies - before) / NUM_ROUNDS
    copied = num_copied * streaming.host_bytes / len(blocks)
    return (
        f"{name:12} {statistics.median(times):7.2f} s {streaming.device_bytes / 1e6:19.0f} MB "
        f"{copied / 1e6:15.0f} MB"
    )


class _Step:
    """A forward pass of both branches.

    Args:
        root: The transformer.
    """

    def __init__(self, root: ShardTransformer) -> None:
        job, config = Job(transformer="", shape=SHAPE), root.model.config
        cos, sin = root.rope_tables(SHAPE, CPU)
        sequence = SequenceGroup(None, [root.num_tokens(SHAPE)], 0)
        image = job.image(config.image_dim)
        self._branches = [
            (
                root.condition(text, image),
                Shard(
                    sequence=sequence, rope_cos=cos, rope_sin=sin, branch=branch, step=0, cache=None
                ),
            )
            for branch, text in enumerate(job.texts(config.text_dim))
        ]
        self._latents, self._root = job.draw(config.in_channels, 1), root

    def time_s(self) -> float:
        """Run it; return its seconds."""
        begin = time.perf_counter()
        self._root(self._latents, torch.tensor([500]), self._branches)
        return time.perf_counter() - begin


def counted() -> Iterator[str]:
    """Yield how a step of the 14B model compares with the copies of its blocks, all streamed."""
    sizes = sizes_of(real_files("wan2.1-i2v"))
    yield f"14B, blocks:0: {sizes.blocks_bytes / 1e9:.1f} GB copied in each step of both branches"
    links = [f"{name}, {sizes.blocks_bytes / 1e9 / rate:.2f} s" for name, rate in PCIE_GB_S.items()]
    yield f"{'share of the step':18} {'step':>8}  {'  '.join(links)}"
    for machine in (RTX_4090, ASCEND, H100, H200):
        for clip, size in ((SD, "480p"), (HD, "720p")):
            taken_s = step_s(machine, clip, Layout())
            shares = [
                f"{sizes.blocks_bytes / 1e9 / rate / taken_s:16.0%}" for rate in PCIE_GB_S.values()
            ]
            yield f"{machine.name[:12]:13}{size} {taken_s:7.1f} s  {'  '.join(shares)}"


if __name__ == "__main__":
    main()
