"""FSDP: every rank stores a slice of each weight; blocks gather theirs when they run.

A model is sharded once, when it is loaded. Whether its blocks drop what they gathered after each
use, or keep it, is decided for each job.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers import UMT5EncoderModel

from ranks.errors import RankError


class WeightsError(RankError):
    """Raised when the weights in a folder are not those of the model."""


def shard_transformer(root: nn.Module, model: WanTransformer3DModel, mesh: DeviceMesh) -> None:
    """Shard the blocks of a transformer; the few other weights stay whole on each rank.

    Args:
        root: The module that is called, `model` itself or one around it. Being called, it lets a
            block's weights travel while the block before computes.
        model: Its weights may still be on the meta device.
        mesh: All ranks, in one dimension.
    """
    # Embeddings and the projection out are used outside the blocks, once a job or a step, and are
    # no more than 2 % of the weights.
    in_blocks = set(model.blocks.parameters())
    whole = {weight for weight in root.parameters() if weight not in in_blocks}
    _shard(root, model.blocks, mesh, whole)


def shard_text_encoder(model: UMT5EncoderModel, mesh: DeviceMesh) -> None:
    """Shard the blocks of a text encoder, and its large embedding with the model itself."""
    _shard(model, model.encoder.block, mesh, whole=set())


def set_sharded(model: nn.Module, sharded: bool) -> None:
    """Decide how a job stores a sharded model.

    Args:
        model: What was sharded as `root`.
        sharded: True: each block drops the others' slices after use. False: it keeps them from its
            first use on, until this is called again.
    """
    for module in _sharded_modules(model):
        module.set_reshard_after_forward(sharded, recurse=False)
        if sharded:
            module.reshard()


def num_weight_bytes(model: nn.Module) -> int:
    """Return the memory of this rank's slices and of the weights it holds whole."""
    return sum(_own(weight).nbytes for weight in model.parameters())


def load_weights(model: nn.Module, folder: Path, device: torch.device) -> None:
    """Fill a model on the meta device; of a sharded weight only the own slice is ever read.

    Buffers that no file holds are for the caller to make anew.

    Args:
        model: As its class makes it on the meta device, sharded or not, in the dtypes to keep.
        folder: Holds the safetensors files, and their index if there are several.
        device: Where the weights go.

    Raises:
        WeightsError: If a weight is missing or has another shape.
    """
    _allocate(model, device)
    with ExitStack() as opened, torch.no_grad():
        files = {
            path: opened.enter_context(safe_open(path, framework="pt"))
            for path in sorted(folder.glob("*.safetensors"))
        }
        place = {name: path for path, file in files.items() for name in file.keys()}  # noqa: SIM118 (no dict)
        for names, weight in _weights_by_names(model):
            stored = next((name for name in names if name in place), None)
            if stored is None:
                raise WeightsError(f"{folder} holds no weight {names[0]}")
            source = files[place[stored]].get_slice(stored)
            if tuple(source.get_shape()) != tuple(weight.shape):
                raise WeightsError(
                    f"{folder}: {stored} has the shape {source.get_shape()}, "
                    f"expected {list(weight.shape)}"
                )
            _own(weight).copy_(source[_own_rows(weight)])


def _shard(
    root: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh, whole: set[nn.Parameter]
) -> None:
    root.requires_grad_(False)
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(root, mesh=mesh, reshard_after_forward=True, ignored_params=whole)


def _sharded_modules(model: nn.Module) -> Iterator[FSDPModule]:
    return (module for module in model.modules() if isinstance(module, FSDPModule))


def _allocate(model: nn.Module, device: torch.device) -> None:
    tied = [names for names, _ in _weights_by_names(model) if len(names) > 1]
    model.to_empty(device=device)
    # Leaving the meta device parts whole weights that were one; sharded ones stay together.
    for first, *others in tied:
        for name in others:
            module, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(module), attribute, model.get_parameter(first))


def _weights_by_names(model: nn.Module) -> list[tuple[list[str], nn.Parameter]]:
    """Return each weight with all its names: tied ones are stored under any of them."""
    weights: dict[nn.Parameter, list[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        weights.setdefault(weight, []).append(name)
    return [(names, weight) for weight, names in weights.items()]


def _own(weight: Tensor) -> Tensor:
    """Return the part of a weight that this rank stores."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def _own_rows(weight: Tensor) -> slice:
    """Return which rows of a weight this rank stores; FSDP deals them out like `torch.chunk`."""
    if not isinstance(weight, DTensor):
        return slice(None)
    mesh = weight.device_mesh
    num_rows = -(-weight.shape[0] // mesh.size())
    first = min(mesh.get_local_rank() * num_rows, weight.shape[0])
    return slice(first, first + weight.to_local().shape[0])
