"""Compares the weights in files with those that a model has."""

from collections.abc import Iterable

from ranks.errors import ModelFolderError
from ranks.model_files.architecture import (
    IMAGE_ENCODER_NAMES,
    ONLY_OWN,
    TEXT_ENCODER_NAMES,
    Names,
    shapes_of,
)
from ranks.model_files.components import Component, ComponentName
from ranks.model_files.weight_files import StoredWeight

_ADVICE = "is it the right model? Download it again, or correct --model-path"

_NAMES: dict[ComponentName, Names] = {
    "text_encoder": TEXT_ENCODER_NAMES,
    "image_encoder": IMAGE_ENCODER_NAMES,
}

_TIED = {"shared.weight": ["shared.weight", "encoder.embed_tokens.weight"]}
"""Weights with several names in their model."""


def check_shapes(part: ComponentName, component: Component) -> None:
    """Check that the weights of a component are those that its config describes.

    Raises:
        ModelFolderError: With the first weight that is missing, left over or of another shape.
    """
    try:
        shapes = shapes_of(part, component.config)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise ModelFolderError(
            f"the config of {component.place} describes no model that can be made: {error}; "
            "download it again"
        ) from error
    if shapes:
        expected = [(_TIED.get(name, [name]), shape) for name, shape in shapes.items()]
        match_shapes(expected, component, _NAMES.get(part, ONLY_OWN))


def match_shapes(
    expected: Iterable[tuple[list[str], tuple[int, ...]]], component: Component, names: Names
) -> dict[str, StoredWeight]:
    """Return where each weight of a model is stored, by the first of its names in the model.

    Args:
        expected: Names and shape of each weight.
        component: Where they are stored.
        names: How the files name them.

    Raises:
        ModelFolderError: If a weight is missing or has another shape, or if the files hold weights
            that the model does not have.
    """
    stored = dict(component.weights)
    matched = {}
    for own, shape in expected:
        spellings = [*own, *(names.prefix + name for name in own)]
        found = [where for name in spellings if (where := stored.pop(name, None)) is not None]
        if not found:
            raise ModelFolderError(f"{component.place} holds no weight {own[0]}; {_ADVICE}")
        if found[0].shape != shape:
            raise ModelFolderError(
                f"{component.place}: {found[0].name} has the shape {list(found[0].shape)}, "
                f"expected {list(shape)} from the config; {_ADVICE}"
            )
        matched[own[0]] = found[0]
    left = [name for name in stored if not names.is_unused(name)]
    if left:
        raise ModelFolderError(
            f"{component.place} holds {left[0]}, which the model of its config does not have "
            f"(such tensors: {len(left)}); {_ADVICE}"
        )
    return matched
