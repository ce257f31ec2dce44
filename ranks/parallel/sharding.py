"""FSDP: every rank stores a slice of each weight, and a block gathers its weights when it runs.

A model is sharded once, when it is loaded. Each job decides whether blocks free their gathered
weights after use or keep them.
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
    """Raised when the weights in a folder do not fit the model."""


def shard_transformer(root: nn.Module, model: WanTransformer3DModel, mesh: DeviceMesh) -> None:
    """Shard the blocks of a transformer; the few other weights stay whole on each rank.

    Args:
        root: The module that is called: `model` or a module around it. Through its call FSDP
            gathers a block's weights while the previous block computes.
        model: The transformer; its weights may still be on the meta device.
        mesh: All ranks, in one dimension.
    """
    # Embeddings and output projection are used outside the blocks, once per job or step, and are at
    # most 2 % of the weights.
    in_blocks = set(model.blocks.parameters())
    whole = {weight for weight in root.parameters() if weight not in in_blocks}
    _shard(root, model.blocks, mesh, whole)


def shard_text_encoder(model: UMT5EncoderModel, mesh: DeviceMesh) -> None:
    """Shard the blocks of a text encoder, and its large embedding as part of the root."""
    _shard(model, model.encoder.block, mesh, whole=set())


def set_sharded(model: nn.Module, sharded: bool) -> None:
    """Set how a sharded model stores its weights from now on.

    Args:
        model: The root of the sharded model.
        sharded: True: each block frees its gathered weights after use. False: each block keeps
            them from its first use on.
    """
    for module in _sharded_modules(model):
        module.set_reshard_after_forward(sharded, recurse=False)
        if sharded:
            module.reshard()


def num_weight_bytes(model: nn.Module) -> int:
    """Return the bytes of this rank's slices and of the weights it holds whole."""
    return sum(_own(weight).nbytes for weight in model.parameters())


def load_weights(model: nn.Module, folder: Path, device: torch.device) -> None:
    """Fill a model that is on the meta device, reading only this rank's slices.

    The caller must create the buffers that no file contains.

    Args:
        model: A model on the meta device, sharded or not, in its final dtypes.
        folder: Folder of the safetensors files.
        device: Device of the weights.

    Raises:
        WeightsError: If a weight is missing or has a different shape.
    """
    _allocate(model, device)
    with ExitStack() as opened, torch.no_grad():
        files = {
            path: opened.enter_context(safe_open(path, framework="pt"))
            for path in sorted(folder.glob("*.safetensors"))
        }
        paths = {name: path for path, file in files.items() for name in file.keys()}  # noqa: SIM118 (no dict)
        for names, weight in _weights_by_names(model):
            stored = next((name for name in names if name in paths), None)
            if stored is None:
                raise WeightsError(
                    f"{folder} holds no weight {names[0]}; is it the right model? "
                    "Download it again, or correct --model-path"
                )
            source = files[paths[stored]].get_slice(stored)
            if tuple(source.get_shape()) != tuple(weight.shape):
                raise WeightsError(
                    f"{folder}: {stored} has the shape {source.get_shape()}, "
                    f"expected {list(weight.shape)} from the config; is it the right model? "
                    "Download it again, or correct --model-path"
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
    # Leaving the meta device separates tied weights that are whole; sharded ones stay tied.
    for first, *aliases in tied:
        for name in aliases:
            module, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(module), attribute, model.get_parameter(first))


def _weights_by_names(model: nn.Module) -> list[tuple[list[str], nn.Parameter]]:
    # A tied weight is stored under any of its names.
    weights: dict[nn.Parameter, list[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        weights.setdefault(weight, []).append(name)
    return [(names, weight) for weight, names in weights.items()]


def _own(weight: Tensor) -> Tensor:
    return weight.to_local() if isinstance(weight, DTensor) else weight


def _own_rows(weight: Tensor) -> slice:
    if not isinstance(weight, DTensor):
        return slice(None)
    mesh = weight.device_mesh
    # FSDP splits rows like `torch.chunk`.
    num_rows = -(-weight.shape[0] // mesh.size())
    first = min(mesh.get_local_rank() * num_rows, weight.shape[0])
    return slice(first, first + weight.to_local().shape[0])
