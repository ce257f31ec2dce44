"""Changing LoRAs between jobs is exact, on one rank and on several that shard the weights."""

import os
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from broker.wire.errors import ErrorCode
from broker.wire.lora import LoraChoice, LoraHashes
from broker.wire.model_profile import EightBit
from ranks.device import open_device
from ranks.errors import JobError
from ranks.loras import lora_switch
from ranks.loras.lora_files import LoraFiles, with_merged
from ranks.loras.lora_switch import LoraSwitch
from ranks.model.transformer import ShardTransformer
from ranks.model.weights import load_transformers
from ranks.model_files.components import ModelFiles
from ranks.model_files.opened_model import open_model
from ranks.model_files.quantization import Quantize, with_quantization
from ranks.offload import parse_offload
from ranks.parallel.sharding import reload_weights, set_sharded
from ranks.parallel.ulysses import SequenceGroup, Shard
from tests.ranks.conftest import DemoFolders
from tests.ranks.loras.lora_forms import write_comfy, write_lightx2v
from tests.ranks.parallel.world import run_ranks

TOLERANCE = 1e-5


@pytest.fixture
def loras(tmp_path: Path, weights: dict[str, Tensor]) -> dict[str, LoraFiles]:
    write_comfy(tmp_path / "comfy.safetensors", weights)
    write_lightx2v(tmp_path / "light.safetensors", weights)
    return {
        name: LoraFiles(name=name, paths=(str(tmp_path / f"{name}.safetensors"),)).identified()
        for name in ("comfy", "light")
    }


def load(model: ModelFiles) -> tuple[ShardTransformer, ...]:
    transformers, _ = load_transformers(model, open_device("cpu", 0, 1), None)
    return transformers


def bits(transformer: ShardTransformer) -> dict[str, Tensor]:
    """Return all weights; 8-bit numbers as bytes, since torch compares only these."""
    return {
        name: weight.detach().clone().view(torch.uint8 if weight.itemsize == 1 else weight.dtype)
        for name, weight in transformer.model.state_dict().items()
    }


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name, weight in one.items() if not torch.equal(weight, other[name])]


def use(switch: LoraSwitch, *loras: LoraFiles, strength: float = 1.0) -> None:
    choices = [LoraChoice(name=lora.name, strength=strength) for lora in loras]
    switch.use(choices, {lora.name: lora.hashes for lora in loras})


@torch.inference_mode()
def test_weights_in_host_memory_change_before_they_are_copied_to_the_device(
    model: ModelFiles, loras: dict[str, LoraFiles]
) -> None:
    device = open_device("cpu", 0, 1)
    (transformer,), (hosted,) = load_transformers(model, device, None, parse_offload("blocks"))
    switch = LoraSwitch([transformer], model, list(loras.values()))
    found = []
    for chosen in ([loras["comfy"]], []):
        use(switch, *chosen)
        hosted.place()
        found.append(output(transformer))
        hosted.release()
    changed, plain = (load(with_merged(model, chosen))[0] for chosen in ([loras["comfy"]], []))
    assert torch.equal(found[0], output(changed))
    assert torch.equal(found[1], output(plain))
    assert not torch.equal(*found)


def test_any_order_of_loras_leaves_no_trace(model: ModelFiles, loras: dict[str, LoraFiles]) -> None:
    transformers = load(model)
    switch = LoraSwitch(transformers, model, list(loras.values()))
    plain = bits(transformers[0])
    alone = {}
    for name, lora in loras.items():
        use(switch, lora, strength=0.7)
        alone[name] = bits(transformers[0])
        assert differing(alone[name], plain)
    use(switch, *loras.values())
    use(switch, loras["comfy"], strength=0.7)
    assert not differing(bits(transformers[0]), alone["comfy"])
    use(switch)
    assert not differing(bits(transformers[0]), plain)


def test_a_lora_of_a_job_gives_the_bits_of_one_that_was_loaded_with_the_model(
    model: ModelFiles, loras: dict[str, LoraFiles]
) -> None:
    transformers = load(model)
    use(LoraSwitch(transformers, model, list(loras.values())), loras["light"])
    loaded = load(with_merged(model, [loras["light"]]))
    assert not differing(bits(transformers[0]), bits(loaded[0]))


@pytest.mark.parametrize("form", get_args(EightBit))
def test_loras_are_merged_before_weights_are_rounded_to_8_bits(
    model: ModelFiles, loras: dict[str, LoraFiles], form: EightBit
) -> None:
    rounded = with_quantization(model, Quantize(form))
    transformers = load(rounded)
    plain = bits(transformers[0])
    assert any(weight.itemsize == 1 for weight in plain.values())
    switch = LoraSwitch(transformers, rounded, list(loras.values()))
    use(switch, loras["light"])
    expected = bits(load(with_merged(rounded, [loras["light"]]))[0])
    assert not differing(bits(transformers[0]), expected)
    changed = {name for name in differing(expected, plain) if plain[name].itemsize == 1}
    assert changed, "none of the 8-bit weights has changed"
    use(switch)
    assert not differing(bits(transformers[0]), plain)


def test_merged_loras_stay_when_a_job_takes_others(
    model: ModelFiles, loras: dict[str, LoraFiles]
) -> None:
    merged_model = with_merged(model, [loras["light"]])
    transformers = load(merged_model)
    before = bits(transformers[0])
    switch = LoraSwitch(transformers, merged_model, [loras["comfy"]])
    use(switch, loras["comfy"])
    expected = bits(load(with_merged(model, [loras["light"], loras["comfy"]]))[0])
    assert not differing(bits(transformers[0]), expected)
    use(switch)
    assert not differing(bits(transformers[0]), before)


def test_each_transformer_of_a_pair_gets_its_own_file(
    demo_folders: DemoFolders, loras: dict[str, LoraFiles], tmp_path: Path
) -> None:
    model = open_model(demo_folders("wan2.2-i2v-a14b"))
    paths = []
    for name in ("comfy", "light"):  # without what this family has no place for
        paths.append(str(tmp_path / f"{name}-2.safetensors"))
        tensors = load_file(loras[name].paths[0])
        kept = {key: t for key, t in tensors.items() if "_img" not in key and "patch" not in key}
        save_file(kept, paths[-1])
    pair = LoraFiles(name="pair", paths=(paths[0], paths[1])).identified()
    transformers = load(model)
    before = [bits(transformer) for transformer in transformers]
    switch = LoraSwitch(transformers, model, [pair])
    use(switch, pair)
    changed = [differing(bits(t), old) for t, old in zip(transformers, before, strict=True)]
    assert "blocks.1.scale_shift_table" not in changed[0]
    assert "blocks.1.scale_shift_table" in changed[1]
    use(switch)
    for transformer, old in zip(transformers, before, strict=True):
        assert not differing(bits(transformer), old)


def refusal(switch: LoraSwitch, *loras: LoraFiles) -> str:
    with pytest.raises(JobError) as refused:
        use(switch, *loras)
    assert refused.value.code is ErrorCode.LORA_INVALID
    return refused.value.reason


def test_a_file_that_has_changed_is_not_used(
    model: ModelFiles, loras: dict[str, LoraFiles], weights: dict[str, Tensor]
) -> None:
    transformers = load(model)
    plain = bits(transformers[0])
    switch = LoraSwitch(transformers, model, list(loras.values()))
    path = Path(loras["comfy"].paths[0])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a careless copy leaves it
    assert "LoRA comfy has changed or is gone" in refusal(switch, loras["comfy"])
    content[-1] ^= 1
    path.write_bytes(content)
    use(switch, loras["comfy"])  # the same content again
    assert differing(bits(transformers[0]), plain)
    path.unlink()
    use(switch)
    assert not differing(bits(transformers[0]), plain)
    assert "LoRA comfy has changed or is gone" in refusal(switch, loras["comfy"])


def test_a_file_that_changes_while_it_is_merged_is_not_used(
    model: ModelFiles, loras: dict[str, LoraFiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_and_replace(*arguments: Any) -> None:
        reload_weights(*arguments)
        Path(loras["comfy"].paths[0]).write_bytes(Path(loras["light"].paths[0]).read_bytes())

    transformers = load(model)
    plain = bits(transformers[0])
    switch = LoraSwitch(transformers, model, list(loras.values()))
    monkeypatch.setattr(lora_switch, "reload_weights", read_and_replace)
    assert "LoRA comfy has changed or is gone" in refusal(switch, loras["comfy"])
    use(switch)
    assert not differing(bits(transformers[0]), plain)


def test_a_job_with_the_loras_of_the_job_before_reads_nothing(
    model: ModelFiles, loras: dict[str, LoraFiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = LoraSwitch(load(model), model, list(loras.values()))
    use(switch, loras["comfy"])
    monkeypatch.setattr(lora_switch, "reload_weights", pytest.fail)
    use(switch, loras["comfy"])


def test_only_the_file_that_the_job_was_accepted_with_is_used(
    model: ModelFiles, loras: dict[str, LoraFiles]
) -> None:
    switch = LoraSwitch(load(model), model, list(loras.values()))
    choices = [LoraChoice(name="comfy")]
    others: list[LoraHashes] = [{}, {"comfy": ("0" * 64,)}]
    for hashes in others:
        with pytest.raises(JobError, match="LoRA comfy has changed or is gone"):
            switch.use(choices, hashes)


def test_a_failed_merge_leaves_no_trace_in_the_next_job(
    model: ModelFiles, loras: dict[str, LoraFiles], tmp_path: Path
) -> None:
    path = tmp_path / "nan.safetensors"
    tensors = load_file(loras["light"].paths[0])
    name = "diffusion_model.head.diff_m"
    save_file(tensors | {name: torch.full_like(tensors[name], torch.nan)}, path)
    bad = LoraFiles(name="nan", paths=(str(path),)).identified()
    transformers = load(model)
    plain = bits(transformers[0])
    switch = LoraSwitch(transformers, model, [*loras.values(), bad])
    assert "LoRA nan cannot be used" in refusal(switch, bad)
    assert differing(bits(transformers[0]), plain)
    use(switch)
    assert not differing(bits(transformers[0]), plain)


def switch_on_ranks(rank: int, world_size: int, folder: str, lora: LoraFiles) -> None:
    """Compare a sharded transformer with the formula, and its output with one whole rank's."""
    model = open_model(Path(folder))
    mesh = init_device_mesh("cpu", (world_size,))
    device = open_device("cpu", rank, world_size)
    with torch.inference_mode():
        sharded, _ = load_transformers(model, device, mesh)
        whole, _ = load_transformers(with_merged(model, [lora]), device, None)
        switch = LoraSwitch(sharded, model, [lora])
        plain = output(sharded[0])
        # As after a job that kept the gathered weights of all blocks.
        set_sharded(sharded[0], sharded=False)
        output(sharded[0])
        use(switch, lora)
        set_sharded(sharded[0], sharded=True)
        for name, weight in sharded[0].model.named_parameters():
            found = weight.full_tensor() if isinstance(weight, DTensor) else weight
            expected = whole[0].model.get_parameter(name)
            assert torch.allclose(found, expected, rtol=0, atol=TOLERANCE), name
        changed = output(sharded[0])
        assert torch.allclose(changed, output(whole[0]), rtol=0, atol=TOLERANCE)
        assert not torch.allclose(changed, plain, rtol=0, atol=100 * TOLERANCE)
        set_sharded(sharded[0], sharded=False)
        output(sharded[0])
        use(switch)
        set_sharded(sharded[0], sharded=True)
        assert torch.equal(output(sharded[0]), plain)


def output(transformer: ShardTransformer) -> Tensor:
    """Return what a rank alone computes of a small clip; hooks gather the weights."""
    config = transformer.model.config
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    shape = (1, 8, 8)
    num_tokens = transformer.num_tokens(shape)
    cos, sin = transformer.rope_tables(shape, torch.device("cpu"))
    condition = transformer.condition(draw(1, 9, config.text_dim), draw(1, 5, config.image_dim))
    shard = Shard(
        sequence=SequenceGroup(None, [num_tokens], 0),
        rope_cos=cos,
        rope_sin=sin,
        branch=0,
        step=0,
        cache=None,
        timestep_rows=None,
    )
    latents = draw(1, config.in_channels, *shape)
    (patches,) = transformer(latents, torch.tensor([500]), [(condition, shard)])
    assert isinstance(patches, Tensor)
    return patches


@pytest.mark.parametrize("world_size", [2, pytest.param(3, marks=pytest.mark.full)])
def test_ranks_that_shard_the_weights_change_their_own_rows(
    demo_folder: Path, loras: dict[str, LoraFiles], world_size: int
) -> None:
    """Three ranks divide no size of the model: the last one's rows are fewer, or none."""
    run_ranks(world_size, switch_on_ranks, str(demo_folder), loras["light"])
