"""Collectives and bytes of a denoising step: ours and diffusers' own context parallelism.

`python -m tests.bench.collectives` runs the same transformer both ways on 8 gloo ranks, counts the
collectives in torch's dispatcher on rank 0, and prints both. Bytes are those sent to other ranks.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import torch
import torch.distributed as dist
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor

from ranks.model.transformer import ShardTransformer
from ranks.parallel.layout import split_evenly
from ranks.parallel.ulysses import SequenceGroup, Shard
from tests.bench.context_parallel import parallelise
from tests.bench.traffic import Counter, Traffic
from tests.ranks.parallel.world import run_ranks

WORLD_SIZE = 8
SHAPE = (3, 16, 16)
"""Shape of the latents: 192 tokens, which 8 ranks share evenly, as diffusers requires."""

DEPTHS = (2, 4)
"""Layers of two models, whose difference separates a layer's cost from the rest of a step."""


def make_model(num_layers: int) -> WanTransformer3DModel:
    """Return a miniature of the real transformer, with the same weights on every rank."""
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
    sizes = split_evenly(transformer.num_tokens(SHAPE), WORLD_SIZE)
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
    (patches,) = transformer(given["latents"], given["timestep"], [(condition, shard)])
    return transformer.unpatchify(sequence.gather(patches), SHAPE)


def step_of_diffusers(model: WanTransformer3DModel, rank: int) -> Tensor:
    """Predict whole latents with diffusers' Ulysses."""
    parallelise(model)
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
    """Write the traffic of each way at each depth, and check that both predict the same."""
    found: dict[str, list[Traffic]] = {}
    for num_layers in DEPTHS:
        predicted = []
        for name, step in STEPS.items():
            model = make_model(num_layers)
            with Counter() as counter:
                predicted.append(step(model, rank))
            found.setdefault(name, []).append(counter.traffic)
        torch.testing.assert_close(*predicted, atol=1e-4, rtol=0)
    if rank == 0:
        path.write_bytes(msgspec.json.encode(found))


def measure() -> dict[str, tuple[Traffic, Traffic]]:
    """Return the traffic of one layer and of the rest of a step, for each way."""
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
