"""Values that differ between the timesteps of a pass, for each token."""

from torch import Tensor


def by_token(values_R1C: Tensor, rows: Tensor | None) -> Tensor:
    """Return each token's row, `[B, L, C]`, or the only one, `[B, 1, C]`, for all tokens."""
    return values_R1C if rows is None else values_R1C[rows].transpose(0, 1)
