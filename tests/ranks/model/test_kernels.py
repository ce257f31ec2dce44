"""Compares fused with plain kernels, for any number of tokens, on shards of tokens and weights."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from diffusers.models.attention_dispatch import AttentionBackendName
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from ranks.families.wan21_i2v import ImageToVideo
from ranks.model.kernels import KernelForm, RotationByFlip, rotate, stack_rotated_by_flip
from ranks.model.transformer import LatentShape, ShardTransformer
from ranks.parallel.layout import split_evenly
from ranks.parallel.sharding import set_sharded, shard_transformer
from ranks.parallel.ulysses import SequenceGroup, Shard
from ranks.sampling.attention_cache import AttentionCache, CacheSchedule
from ranks.warm_up import warm_up
from tests.ranks.parallel.test_ulysses import small_model
from tests.ranks.parallel.world import run_ranks

# torch's compiler uses deprecated functions of torch.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

CPU = torch.device("cpu")
SHAPES: list[LatentShape] = [(1, 6, 10), (3, 8, 8), (2, 10, 14)]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of compiled kernels; only the first test pays for compiling."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(autouse=True)
def compiler(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compile into that folder in this process, and unload the kernels afterwards."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(compiled))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    yield
    torch.compiler.reset()


def transformer(kernels: KernelForm, dtype: torch.dtype = torch.float32) -> ShardTransformer:
    model = small_model().to(dtype)
    return ShardTransformer(model, AttentionBackendName.NATIVE, kernels=kernels)


def predict(
    model: ShardTransformer,
    shape: LatentShape,
    sequence: SequenceGroup | None = None,
    cache: AttentionCache | None = None,
    step: int = 0,
) -> Tensor:
    """Return the prediction for the whole sequence, on every rank of `sequence`."""
    generator = torch.Generator().manual_seed(7)
    latents = torch.randn(1, 8, *shape, generator=generator)
    text = torch.randn(1, 9, 16, generator=generator)
    image = torch.randn(1, 5, 16, generator=generator)
    sequence = sequence or SequenceGroup(None, [model.num_tokens(shape)], 0)
    cos, sin = (sequence.take(table) for table in model.rope_tables(shape, CPU))
    shard = Shard(sequence=sequence, rope_cos=cos, rope_sin=sin, branch=0, step=step, cache=cache)
    condition = model.condition(text, image)
    (patches,) = model(latents.to(model.dtype), torch.tensor([600]), [(condition, shard)])
    return sequence.gather(patches)


@torch.inference_mode()
def test_fused_kernels_equal_plain_ones_and_one_compilation_serves_every_size() -> None:
    fused, plain = transformer("compiled"), transformer("plain")
    warm_up(ImageToVideo(), fused, CPU, 5)
    with torch.compiler.set_stance("fail_on_recompile"):
        for shape in SHAPES:
            found = predict(fused, shape)
            torch.testing.assert_close(found, predict(plain, shape), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_fused_kernels_are_as_accurate_in_bfloat16_as_plain_ones() -> None:
    truth = predict(transformer("plain"), SHAPES[0])
    errors = []
    forms: tuple[KernelForm, ...] = ("compiled", "plain")
    for form in forms:
        found = predict(transformer(form, torch.bfloat16), SHAPES[0])
        errors.append((found.float() - truth).norm() / truth.norm())
    assert errors[0] < 1.2 * errors[1]
    assert errors[1] < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rotation_that_is_compiled_equals_the_plain_one_in_every_bit(
    dtype: torch.dtype,
) -> None:
    generator = torch.Generator().manual_seed(3)
    query, key, value = torch.randn(3, 1, 7, 96, generator=generator).to(dtype)
    weights = torch.randn(2, 96, generator=generator).to(dtype)
    angles = 6 * torch.rand(7, 1, 12, generator=generator)
    arguments = (
        (query, key, value),
        (weights[0], weights[1]),
        (angles.cos(), angles.sin()),
        1e-6,
        4,
        2,
    )
    assert torch.equal(RotationByFlip(stack_rotated_by_flip)(*arguments), rotate(*arguments))


def test_fused_kernels_work_on_shards_of_tokens_and_of_weights(compiled: Path) -> None:
    """One compilation serves every shard, although shards differ in length."""
    run_ranks(2, check_shards, compiled)


@torch.inference_mode()
def check_shards(rank: int, world_size: int, compiled: Path) -> None:
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(compiled)
    model = transformer("compiled")
    shard_transformer(model, model.model, init_device_mesh("cpu", (world_size,)))
    warm_up(ImageToVideo(), model, CPU, 5)
    cache = AttentionCache(CacheSchedule(start=0, interval=2, end=2, num_inference_steps=2))
    for shape in SHAPES:
        expected = predict(transformer("plain"), shape)
        sizes = split_evenly(model.num_tokens(shape), world_size)
        for is_sharded in (True, False):
            set_sharded(model, is_sharded)
            for step in (0, 1):
                with torch.compiler.set_stance("fail_on_recompile"):
                    sequence = SequenceGroup(dist.group.WORLD, sizes, rank)
                    found = predict(model, shape, sequence, cache, step)
                # The first step fills the cache, the second reuses it; the inputs are the same.
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_forward_pass_never_waits_for_the_device() -> None:
    """On the meta device, reading a value back raises."""
    model = ShardTransformer(small_model().to("meta"), AttentionBackendName.NATIVE)
    shape = SHAPES[0]
    with torch.device("meta"):
        cos, sin = model.rope_tables(shape, torch.device("meta"))
        sequence = SequenceGroup(None, [model.num_tokens(shape)], 0)
        shard = Shard(sequence=sequence, rope_cos=cos, rope_sin=sin, branch=0, step=0, cache=None)
        condition = model.condition(torch.empty(1, 512, 16), torch.empty(1, 5, 16))
        timestep = torch.empty(1, dtype=torch.int64)
        (found,) = model(torch.empty(1, 8, *shape), timestep, [(condition, shard)])
    assert found.device.type == "meta"
