"""Merges LoRAs into rows of weights, in float32, as they are read from the model's files.

    W' = W + Σ strength · (alpha / rank) · B · A        b' = b + Σ strength · diff_b

A rank computes its own rows alone: they take those rows of B, and the whole of A. W is what the
file holds, not what a device has rounded it to, and nothing is ever subtracted: a weight without
LoRAs is read again. So it has the bits that it had when the model was loaded.
"""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ranks.errors import LoraFileError
from ranks.loras.lora_file import Term, WeightedChanges


class LoraMerge:
    """Keeps LoRA files open while weights are read; use it with `with`.

    Args:
        loras: They are added in this order, which decides how sums are rounded.
    """

    def __init__(self, loras: Sequence[WeightedChanges]) -> None:
        self._loras = loras
        self._opened = ExitStack()
        self._files: dict[Path, Any] = {}
        self._sum: Tensor | None = None

    def __enter__(self) -> "LoraMerge":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.clear()
        self._opened.close()

    def rows(self, name: str, stored: Tensor, rows: slice, device: torch.device) -> Tensor:
        """Return rows of a weight with all changes; as they are stored if nothing changes them.

        Args:
            name: Of the weight, as diffusers names it.
            stored: The rows in the dtype of the model's file.
            rows: Which rows they are.
            device: Where to compute.

        Raises:
            LoraFileError: If a LoRA can no longer be read.
        """
        terms = [(lora, term) for lora in self._loras for term in lora.changes.terms.get(name, ())]
        if not terms or not stored.numel():
            return stored
        merged = stored.to(device, torch.float32, copy=True)
        for lora, term in terms:
            change = self._change(lora.changes.path, term, rows, device)
            merged.add_(change.reshape(merged.shape), alpha=lora.strength)
        # On the device, and looked at once in the end: the host does not wait for each weight.
        total = merged.sum()
        self._sum = total if self._sum is None else self._sum + total
        return merged

    def require_finite(self) -> None:
        """Check the rows that have been merged.

        Raises:
            LoraFileError: If any holds NaN or infinity.
        """
        if self._sum is not None and not math.isfinite(self._sum.item()):
            names = ", ".join(lora.changes.path.name for lora in self._loras)
            raise LoraFileError(
                f"{names}: the weights hold NaN or infinity with it; train or download it again"
            )

    def _change(self, path: Path, term: Term, rows: slice, device: torch.device) -> Tensor:
        """Return the rows of a change for strength 1, float32, flat beyond the first dimension."""
        try:
            file = self._open(path)
            up = file.get_slice(term.up)[rows.start : rows.stop]
            change: Tensor = (
                up.to(device, torch.float32).flatten(1)
                if up.dim() > 1
                else up.to(device, torch.float32)
            )
            if term.down is not None:
                down = file.get_tensor(term.down).to(device, torch.float32).flatten(1)
                change = change @ down
            alpha = 1.0 if term.alpha is None else float(file.get_tensor(term.alpha).item())
        except (OSError, SafetensorError) as error:
            raise LoraFileError(f"{path} cannot be read: {error}") from error
        factor = term.scale * alpha
        return change if factor == 1.0 else change * factor

    def _open(self, path: Path) -> Any:
        if path not in self._files:
            self._files[path] = self._opened.enter_context(safe_open(path, framework="pt"))
        return self._files[path]
