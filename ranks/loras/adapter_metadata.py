"""The scale of a low-rank change that peft and diffusers keep in a file's metadata."""

import math
from pathlib import Path

import msgspec
from safetensors import SafetensorError, safe_open

from ranks.errors import LoraFileError

_KEY = "lora_adapter_metadata"
_FIELDS = ("lora_alpha", "alpha_pattern", "use_rslora", "use_dora")


class AdapterScale(msgspec.Struct, frozen=True):
    """A peft config, as far as it scales changes; without `lora_alpha` it does not.

    Source:
        peft `tuners/lora/layer.py`, `LoraLayer.update_layer`.
    """

    lora_alpha: float | None = None
    alpha_pattern: dict[str, float] = {}
    """Alphas of modules, by the end of their names."""
    use_rslora: bool = False
    use_dora: bool = False

    def of(self, module: str, rank: int) -> float:
        """Return what the change of a module is to be multiplied with."""
        alpha = next(
            (a for end, a in self.alpha_pattern.items() if f".{module}".endswith(f".{end}")),
            self.lora_alpha,
        )
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def read_adapter_scale(path: Path) -> AdapterScale:
    """Return the scale in the metadata of a safetensors file whose header has been checked.

    Raises:
        LoraFileError: If the metadata cannot be understood, or the scale is another one.
    """
    try:
        with safe_open(path, "np") as file:
            text = (file.metadata() or {}).get(_KEY)
        if text is None:
            return AdapterScale()
        config = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        # diffusers writes the name of the component before each key.
        fields = {name.rpartition(".")[2]: value for name, value in config.items()}
        known = {name: msgspec.json.decode(fields[name]) for name in _FIELDS if name in fields}
        scale = msgspec.convert(
            {name: value for name, value in known.items() if value is not None}, AdapterScale
        )
    except (OSError, SafetensorError, msgspec.MsgspecError) as error:
        raise LoraFileError(f"{path} has metadata that cannot be read: {error}") from error
    if scale.use_dora:
        raise LoraFileError(f"{path} is a DoRA; expected a LoRA")
    return scale
