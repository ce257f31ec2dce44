"""Matches the weights of a model with the tensors in its files."""

import msgspec
from torch import nn

from ranks.errors import ModelFolderError
from ranks.model_files.components import Component
from ranks.model_files.weight_files import StoredWeight

_ADVICE = "is it the right model? Download it again, or correct --model-path"


class Names(msgspec.Struct, frozen=True):
    """How the files of a component name its weights."""

    prefix: str = ""
    """Stands before each name in some files, and not in others."""
    unused: tuple[str, ...] = ()
    """How the names begin of what a file of the whole model holds besides the component."""


ONLY_OWN = Names()


def match_weights(
    model: nn.Module, component: Component, names: Names = ONLY_OWN
) -> dict[str, StoredWeight]:
    """Return where each weight of a model is stored, by the first of its names in the model.

    Raises:
        ModelFolderError: If a weight is missing or has another shape, or if the files hold weights
            that the model does not have.
    """
    stored = dict(component.weights)
    matched = {}
    for own, weight in weights_by_names(model):
        spellings = [*own, *(names.prefix + name for name in own)]
        found = [where for name in spellings if (where := stored.pop(name, None)) is not None]
        if not found:
            raise ModelFolderError(f"{component.place} holds no weight {own[0]}; {_ADVICE}")
        if found[0].shape != tuple(weight.shape):
            raise ModelFolderError(
                f"{component.place}: {found[0].name} has the shape {list(found[0].shape)}, "
                f"expected {list(weight.shape)} from the config; {_ADVICE}"
            )
        matched[own[0]] = found[0]
    left = [name for name in stored if not _is_unused(name, names)]
    if left:
        raise ModelFolderError(
            f"{component.place} holds {left[0]}, which the model of its config does not have "
            f"(such tensors: {len(left)}); {_ADVICE}"
        )
    return matched


def weights_by_names(model: nn.Module) -> list[tuple[list[str], nn.Parameter]]:
    # A tied weight is stored under any of its names.
    weights: dict[nn.Parameter, list[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        weights.setdefault(weight, []).append(name)
    return [(names, weight) for weight, names in weights.items()]


def _is_unused(name: str, names: Names) -> bool:
    return name.startswith(names.unused) or name.endswith(".position_ids")
