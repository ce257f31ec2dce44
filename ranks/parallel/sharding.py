"""FSDP: every rank stores a slice of each weight, and a block gathers its weights when it runs.

A model is sharded once, when it is loaded. Each job decides whether blocks free their gathered
weights after use or keep them.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers import UMT5EncoderModel

from ranks.loras.lora_file import WeightedChanges
from ranks.loras.merging import LoraMerge
from ranks.model.kernels import quantize_rows
from ranks.model.quantized_linear import DTYPES, scale_of
from ranks.model.tensor_reader import TensorReader
from ranks.model.weight_match import match_weights, weights_by_names
from ranks.model_files.architecture import ONLY_OWN, Names
from ranks.model_files.components import Component
from ranks.model_files.weight_files import StoredWeight


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


def load_weights(
    model: nn.Module, component: Component, device: torch.device, names: Names = ONLY_OWN
) -> None:
    """Fill a model that is on the meta device, reading only this rank's slices.

    The caller must create the buffers that no file contains.

    Args:
        model: A model on the meta device, sharded or not, in its final dtypes.
        component: Where its weights are stored.
        device: Device of the weights.
        names: How the files name the weights.

    Raises:
        ModelFolderError: If the weights do not fit the model; nothing has been read then. Or if a
            LoRA of the component cannot be merged.
    """
    stored = match_weights(model, component, names)
    _allocate(model, device)
    weights = {first: weight for (first, *_), weight in weights_by_names(model)}
    _read_weights(model, weights, stored, component.loras)


def reload_weights(
    model: nn.Module,
    component: Component,
    names: Collection[str],
    loras: Sequence[WeightedChanges] = (),
) -> None:
    """Read this rank's slices of some weights again, and merge LoRAs into them.

    Args:
        model: A transformer that `load_weights` has filled; no block has gathered weights.
        component: Where its weights are stored.
        names: The weights.
        loras: They come after those of the component.

    Raises:
        ModelFolderError: If a file can no longer be read, or a LoRA cannot be merged; some weights
            are changed then, others not.
    """
    weights = {name: weight for name, weight in model.named_parameters() if name in names}
    _read_weights(model, weights, component.weights, [*component.loras, *loras])


def _read_weights(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    stored: Mapping[str, StoredWeight],
    loras: Sequence[WeightedChanges],
) -> None:
    with TensorReader() as reader, LoraMerge(loras) as merge, torch.no_grad():
        for name, weight in weights.items():
            if name not in stored:  # a scale, which comes with its weight
                continue
            where, rows, own = stored[name], _own_rows(weight), _own(weight)
            if weight.dtype not in DTYPES:
                own.copy_(merge.rows(name, reader.read(where, rows), rows, own.device))
                continue
            scale = _own(model.get_parameter(scale_of(name)))
            if where.scale is not None:
                own.copy_(reader.read_numbers(where, rows))
                scale.copy_(reader.read_scale(where, rows))
                continue
            # On the device, because the host would take minutes.
            plain = merge.rows(name, reader.read(where, rows), rows, own.device).to(own.device)
            numbers, factors = quantize_rows(plain, weight.dtype)
            own.copy_(numbers)
            scale.copy_(factors)
        merge.require_finite()


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
    tied = [names for names, _ in weights_by_names(model) if len(names) > 1]
    model.to_empty(device=device)
    # Leaving the meta device separates tied weights that are whole; sharded ones stay tied.
    for first, *aliases in tied:
        for name in aliases:
            module, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(module), attribute, model.get_parameter(first))


def _own(weight: Tensor) -> Tensor:
    return weight.to_local() if isinstance(weight, DTensor) else weight


def _own_rows(weight: Tensor) -> slice:
    if not isinstance(weight, DTensor):
        return slice(0, weight.shape[0] if weight.shape else 1)
    mesh = weight.device_mesh
    # FSDP splits rows like `torch.chunk`.
    num_rows = -(-weight.shape[0] // mesh.size())
    first = min(mesh.get_local_rank() * num_rows, weight.shape[0])
    return slice(first, first + weight.to_local().shape[0])
