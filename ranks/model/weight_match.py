"""Matches the weights of a model with the tensors in its files."""

from torch import nn

from ranks.model.quantized_linear import SCALE
from ranks.model_files.architecture import ONLY_OWN, Names
from ranks.model_files.components import Component
from ranks.model_files.weight_files import StoredWeight
from ranks.model_files.weight_fit import match_shapes


def match_weights(
    model: nn.Module, component: Component, names: Names = ONLY_OWN
) -> dict[str, StoredWeight]:
    """Return where each weight of a model is stored, by the first of its names in the model.

    Raises:
        ModelFolderError: If a weight is missing or has another shape, or if the files hold weights
            that the model does not have.
    """
    expected = [
        (own, tuple(weight.shape))
        for own, weight in weights_by_names(model)
        if not own[0].endswith(SCALE)  # where a weight is, its scale is; or it is computed
    ]
    return match_shapes(expected, component, names)


def weights_by_names(model: nn.Module) -> list[tuple[list[str], nn.Parameter]]:
    # A tied weight is stored under any of its names.
    weights: dict[nn.Parameter, list[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        weights.setdefault(weight, []).append(name)
    return [(names, weight) for weight, names in weights.items()]
