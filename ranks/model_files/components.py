"""A model on disk, whatever its layout: the configs and the weights of its components."""

from pathlib import Path
from typing import Any, Literal

import msgspec

from broker.wire.model_profile import EightBit, Family, ImageView
from ranks.errors import ModelFolderError
from ranks.loras.lora_file import WeightedChanges
from ranks.model_files.weight_files import StoredWeight

ComponentName = Literal["transformer", "transformer_2", "vae", "text_encoder", "image_encoder"]
"""As diffusers names the folders of components with weights."""

Layout = Literal["diffusers", "original"]
"""How a folder names and stores the components: as diffusers does, or as the makers of Wan do."""

_BASE: tuple[ComponentName, ...] = ("text_encoder", "image_encoder", "transformer", "vae")
WEIGHTED: dict[Family, tuple[ComponentName, ...]] = {
    "wan2.1-i2v": _BASE,
    "wan2.1-flf2v": _BASE,
    "wan2.2-i2v-a14b": ("text_encoder", "transformer", "transformer_2", "vae"),
    "wan2.2-ti2v-5b": ("text_encoder", "transformer", "vae"),
}
"""The components with weights of each family."""

TRANSFORMERS: tuple[ComponentName, ...] = ("transformer", "transformer_2")
"""In the order of the steps that they compute."""


class Component(msgspec.Struct, frozen=True, kw_only=True):
    """A component with weights."""

    place: str
    """The folder or file that it comes from, for messages."""
    config: dict[str, Any]
    """In the words of diffusers or transformers."""
    weights: dict[str, StoredWeight]
    """By their names in the module of diffusers or transformers."""
    strays: list[str] = []
    """Files and tensors that are not part of it."""
    quantization: EightBit | None = None
    """How the weights in `quantized` are held, whatever their files hold."""
    quantized: frozenset[str] = frozenset()
    loras: tuple[WeightedChanges, ...] = ()
    """Merged into the weights whenever they are read."""


class ModelFiles(msgspec.Struct, frozen=True, kw_only=True):
    """All that is needed to load a model."""

    place: Path
    layout: Layout = "diffusers"
    family: Family
    components: dict[ComponentName, Component]
    tokenizer: Path
    image_processor: Path | None
    """None if the folder states no settings, or the model sees images through the VAE alone."""
    boundary_ratio: float | None = None
    """Where a model with two transformers changes from the first to the second: the timestep over
    1000."""

    @property
    def transformers(self) -> list[Component]:
        """In the order of the steps that they compute."""
        return [self.components[name] for name in TRANSFORMERS if name in self.components]

    @property
    def image_view(self) -> ImageView | None:
        if "image_encoder" not in self.components:
            return None
        return "official" if self.image_processor is None else "folder"

    @property
    def num_heads(self) -> int:
        """The transformer's number of attention heads.

        Raises:
            ModelFolderError: If its config does not state a positive number.
        """
        transformer = self.components["transformer"]
        heads = transformer.config.get("num_attention_heads")
        if not isinstance(heads, int) or heads < 1:
            raise ModelFolderError(
                f"{transformer.place}/config.json: num_attention_heads is {heads!r}; "
                "expected a whole number from 1 up; download the file again"
            )
        return heads
