"""Collectives and bytes of one denoising step: ours against diffusers' own context parallelism.

`python -m tests.bench.collectives` runs the same transformer both ways on 8 gloo ranks, counts what
passes torch's dispatcher on rank 0, and prints both. Bytes are those that a rank sends to others.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import torch
import torch.distributed as dist
from diffusers.hooks.context_parallel import apply_context_parallel
from diffusers.models._modeling_parallel import ContextParallelConfig, ParallelConfig
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ranks.layout import shard_sizes
from ranks.transformer import ShardTransformer
from ranks.ulysses import SequenceGroup, Shard
from tests.ranks.world import run_ranks

WORLD_SIZE = 8
SHAPE = (3, 16, 16)
"""Of the latents: 192 tokens, which 8 ranks can share evenly, as diffusers needs it."""

DEPTHS = (2, 4)
"""Layers of the two models that tell a layer's cost from that of the rest of a step."""


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What one rank does in collectives."""

    num_collectives: int
    num_bytes: int

    def __sub__(self, other: "Traffic") -> "Traffic":
        return Traffic(
            num_collectives=self.num_collectives - other.num_collectives,
            num_bytes=self.num_bytes - other.num_bytes,
        )

    def __floordiv__(self, divisor: int) -> "Traffic":
        return Traffic(
            num_collectives=self.num_collectives // divisor, num_bytes=self.num_bytes // divisor
        )


class Counter(TorchDispatchMode):
    """Counts the collectives that are called while it is active, and what they send."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_collectives = 0
        self.num_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        namespace, _, name = func.name().partition("::")
        if namespace in ("c10d", "_c10d_functional") and not name.startswith(("wait", "_wrap")):
            self._count(name, args)
        return func(*args, **(kwargs or {}))

    def _count(self, name: str, args: tuple[Any, ...]) -> None:
        # `c10d` takes outputs before inputs, its functional form the input alone.
        tensors = [tree_leaves(arg) for arg in args if tree_leaves(arg)]
        inputs = [[t for t in leaves if isinstance(t, Tensor)] for leaves in tensors]
        sent = [found for found in inputs if found][-1]
        num_bytes = sum(tensor.nbytes for tensor in sent)
        peers = WORLD_SIZE - 1
        self.num_collectives += 1
        if "gather" in name:
            self.num_bytes += num_bytes * peers
        elif "alltoall" in name or "all_to_all" in name:
            self.num_bytes += num_bytes * peers // WORLD_SIZE
        else:
            raise ValueError(f"what does {name} send?")


def make_model(num_layers: int) -> WanTransformer3DModel:
    """Return a transformer of the real kind in miniature; the same weights on every rank."""
    torch.manual_seed(1)
    model: WanTransformer3DModel = WanTransformer3DModel(
        num_attention_heads=8,
        attention_head_dim=16,
        in_channels=36,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=256,
        num_layers=num_layers,
        image_dim=32,
        added_kv_proj_dim=128,
    )
    return model


def inputs() -> dict[str, Tensor]:
    """Return the same inputs on every rank."""
    generator = torch.Generator().manual_seed(2)
    return {
        "latents": torch.randn(1, 36, *SHAPE, generator=generator),
        "timestep": torch.tensor([500]),
        "text": torch.randn(1, 512, 32, generator=generator),
        "image": torch.randn(1, 257, 32, generator=generator),
    }


def step_of_ours(model: WanTransformer3DModel, rank: int) -> Tensor:
    """Predict whole latents with our Ulysses."""
    given = inputs()
    transformer = ShardTransformer(model, AttentionBackendName.NATIVE)
    sizes = shard_sizes(transformer.num_tokens(SHAPE), WORLD_SIZE)
    sequence = SequenceGroup(dist.group.WORLD, sizes, rank)
    cos, sin = transformer.rope_tables(SHAPE, torch.device("cpu"))
    shard = Shard(
        sequence=sequence,
        rope_cos=sequence.take(cos),
        rope_sin=sequence.take(sin),
        branch=0,
        step=0,
        cache=None,
    )
    condition = transformer.condition(given["text"], given["image"])
    patches = transformer(given["latents"], given["timestep"], condition, shard)
    return transformer.unpatchify(sequence.gather(patches), SHAPE)


def step_of_diffusers(model: WanTransformer3DModel, rank: int) -> Tensor:
    """Predict whole latents with diffusers' Ulysses."""
    mesh = init_device_mesh("cpu", (1, WORLD_SIZE), mesh_dim_names=("ring", "ulysses"))
    context = ContextParallelConfig(ulysses_degree=WORLD_SIZE)
    config = ParallelConfig(context_parallel_config=context)
    # `enable_parallelism` would do this, were it not for its check for an accelerator.
    config.setup(rank, WORLD_SIZE, torch.device("cpu"), mesh=mesh)
    for block in model.blocks:
        block.attn1.processor._parallel_config = config
        block.attn2.processor._parallel_config = config
    apply_context_parallel(model, context, model._cp_plan)
    given = inputs()
    output: tuple[Tensor] = model(
        hidden_states=given["latents"],
        timestep=given["timestep"],
        encoder_hidden_states=given["text"],
        encoder_hidden_states_image=given["image"],
        return_dict=False,
    )
    return output[0]


STEPS: dict[str, Callable[[WanTransformer3DModel, int], Tensor]] = {
    "ours": step_of_ours,
    "diffusers": step_of_diffusers,
}


@torch.no_grad()
def count(rank: int, world_size: int, path: Path) -> None:
    """Write what each way needs at each depth; both must predict the same."""
    found: dict[str, list[Traffic]] = {}
    for num_layers in DEPTHS:
        predicted = []
        for name, step in STEPS.items():
            model = make_model(num_layers)
            with Counter() as counter:
                predicted.append(step(model, rank))
            found.setdefault(name, []).append(
                Traffic(num_collectives=counter.num_collectives, num_bytes=counter.num_bytes)
            )
        torch.testing.assert_close(*predicted, atol=1e-4, rtol=0)
    if rank == 0:
        path.write_bytes(msgspec.json.encode(found))


def measure() -> dict[str, tuple[Traffic, Traffic]]:
    """Return the traffic of a layer and of the rest of a step, for each way."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        run_ranks(WORLD_SIZE, count, path)
        found = msgspec.json.decode(path.read_bytes(), type=dict[str, list[Traffic]])
    shallow, deep = DEPTHS
    per_layer = {name: (b - a) // (deep - shallow) for name, (a, b) in found.items()}
    return {name: (layer, _rest(found[name][0], layer)) for name, layer in per_layer.items()}


def _rest(step: Traffic, layer: Traffic) -> Traffic:
    for _ in range(DEPTHS[0]):
        step = step - layer
    return step


def main() -> None:
    """Print the table."""
    num_layers = 40
    print(f"one forward pass, Ulysses {WORLD_SIZE}, for each rank; a step of {num_layers} layers")
    print(f"{'':10} {'a layer':>24} {'the rest':>24} {'a step':>26}")
    for name, (layer, rest) in measure().items():
        step = Traffic(
            num_collectives=num_layers * layer.num_collectives + rest.num_collectives,
            num_bytes=num_layers * layer.num_bytes + rest.num_bytes,
        )
        cells = [f"{t.num_collectives} x, {t.num_bytes:,} B" for t in (layer, rest, step)]
        print(f"{name:10} {cells[0]:>24} {cells[1]:>24} {cells[2]:>26}")


if __name__ == "__main__":
    main()
