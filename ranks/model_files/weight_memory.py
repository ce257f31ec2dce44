"""The memory that a model's weights take on each rank, computed from its configs."""

import math

from ranks.model_files.architecture import shapes_of
from ranks.model_files.components import TRANSFORMERS, ComponentName, ModelFiles

NUM_RANKS = (1, 2, 4, 8)

IN_FLOAT32 = frozenset({"time_embedder", "scale_shift_table", "norm1", "norm2", "norm3"})
"""Modules of the transformer that diffusers keeps in float32."""

SCALE_BYTES = 4
"""Of a row of 8-bit numbers."""


def weight_bytes(files: ModelFiles, num_ranks: int) -> int:
    """Return the bytes of the weights on each of the ranks, as accelerators hold them.

    The blocks of transformers and the text encoder are in bfloat16, if not in 8-bit numbers, and
    sharded; all else is whole, and image encoder and VAE are in float32.
    """
    sharded = whole = 0
    for part, component in files.components.items():
        for name, shape in shapes_of(part, component.config).items():
            if name in component.quantized:
                num_bytes = math.prod(shape) + SCALE_BYTES * shape[0]
            else:
                num_bytes = math.prod(shape) * _item_bytes(part, name)
            is_in_block = part in TRANSFORMERS and name.startswith("blocks.")
            if num_ranks > 1 and (is_in_block or part == "text_encoder"):
                sharded += num_bytes
            else:
                whole += num_bytes
    return whole + -(-sharded // num_ranks)


def _item_bytes(part: ComponentName, name: str) -> int:
    if part in TRANSFORMERS:
        return 2 if IN_FLOAT32.isdisjoint(name.split(".")) else 4
    return 2 if part == "text_encoder" else 4
