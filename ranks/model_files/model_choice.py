"""What an operator says of a model; the launcher passes it to its helpers as their arguments."""

import argparse
from pathlib import Path
from typing import get_args

import msgspec

from broker.wire.model_profile import EightBit
from ranks.model_files.components import ModelFiles
from ranks.model_files.opened_model import open_model
from ranks.model_files.quantization import Quantize


class ModelChoice(msgspec.Struct, frozen=True):
    """A model, and how it is to be served."""

    path: Path
    """Its folder."""
    transformers: tuple[Path, ...] = ()
    """Single files that take the place of the folder's own transformers."""
    quantize: Quantize | None = None
    """How its transformers are quantized as they are loaded."""
    is_distilled: bool = False

    @property
    def arguments(self) -> list[str]:
        found = [str(self.path)]
        for path in self.transformers:
            found += ["--transformer", str(path)]
        if self.quantize is not None:
            skipped = str(self.quantize.skipped_blocks)
            found += ["--quantize", self.quantize.form, "--quantize-skip", skipped]
        return found + ["--distilled"] * self.is_distilled

    def open(self) -> ModelFiles:
        """Return the components of the model, as `open_model` does."""
        return open_model(self.path, self.transformers, self.quantize)


def parse_choice() -> ModelChoice:
    """Return the choice whose arguments this process was given."""
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--transformer", type=Path, action="append", default=[])
    parser.add_argument("--quantize", choices=get_args(EightBit))
    parser.add_argument("--quantize-skip", type=int, default=0)
    parser.add_argument("--distilled", action="store_true")
    options = parser.parse_args()
    quantize = options.quantize and Quantize(options.quantize, options.quantize_skip)
    return ModelChoice(options.path, tuple(options.transformer), quantize, options.distilled)
