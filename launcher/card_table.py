"""Which sizes of video fit which cards, and with which options; from the estimate of the memory."""

from collections.abc import Iterator
from typing import Any

import msgspec

from broker.wire.model_profile import ModelProfile
from ranks.model_files.fitting import Fit, GroupPlan, choose_offload, fit_of, usual_job
from ranks.model_files.memory_estimate import ModelSizes
from ranks.offload import ENCODERS, NOTHING, Offload

NUM_CARDS = (1, 2, 4, 8)
CARD_GB = (24, 32, 48, 64, 80)
SMALL_SIZE = "832*480"

_SPLIT_T5 = {"t5_fsdp": True}
_SPLIT_VAE = {"vae_parallel": True}
_SPLIT_DIT = {"dit_fsdp": True}
_ONE_BRANCH = {"cfg_size": 1}
_SHARED: tuple[tuple[dict[str, Any], Offload], ...] = (
    ({}, NOTHING),
    (_SPLIT_T5 | _SPLIT_VAE, NOTHING),
    (_SPLIT_VAE, ENCODERS),
    (_SPLIT_T5 | _SPLIT_VAE | _SPLIT_DIT, NOTHING),
    (_SPLIT_VAE | _SPLIT_DIT, ENCODERS),
    (_SPLIT_T5 | _SPLIT_VAE | _SPLIT_DIT | _ONE_BRANCH, NOTHING),
    (_SPLIT_VAE | _SPLIT_DIT | _ONE_BRANCH, ENCODERS),
)
"""Settings of a group of several cards, in the order of what a job loses by them."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One size on one kind of group."""

    options: str
    """Flags that make it fit; empty if none is needed."""
    fit: Fit

    @property
    def text(self) -> str:
        if not self.fit.is_fit:
            return "no"
        return self.options or "fits"


def card_rows(
    sizes: ModelSizes, profile: ModelProfile, num_heads: int
) -> Iterator[tuple[int, int, dict[str, Cell]]]:
    """Yield the number of cards, the GB of each, and a cell for each size of video."""
    for num_cards in NUM_CARDS:
        for card_gb in CARD_GB:
            plan = GroupPlan(
                world_size=num_cards, num_heads=num_heads, capacity_bytes=card_gb * 10**9
            )
            cells = {
                size: cell_of(plan, sizes, profile, size)
                for size in (SMALL_SIZE, profile.image_size)
            }
            yield num_cards, card_gb, cells


def cell_of(plan: GroupPlan, sizes: ModelSizes, profile: ModelProfile, image_size: str) -> Cell:
    spec = usual_job(profile, image_size)
    if plan.world_size == 1:
        fit = choose_offload(plan, sizes, profile, spec)
        return Cell(options=_flags({}, fit.offload), fit=fit)
    cells = [
        Cell(
            options=_flags(settings, offload),
            fit=fit_of(msgspec.structs.replace(plan, **settings), sizes, profile, spec, offload),
        )
        for settings, offload in _SHARED
    ]
    return next((cell for cell in cells if cell.fit.is_fit), cells[-1])


def _flags(settings: dict[str, Any], offload: Offload) -> str:
    flags = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
        for name, value in settings.items()
    ]
    return " ".join([*flags, *([f"--offload {offload.text}"] if offload != NOTHING else [])])
