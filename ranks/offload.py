"""What is kept in host memory instead of on the device: the option `--offload`."""

import re

import msgspec

PATTERN = r"^(none|encoders|models|blocks(:[0-9]{1,3})?)$"


class Offload(msgspec.Struct, frozen=True, kw_only=True):
    """What is on the device only while it computes; each choice includes those before it."""

    encoders: bool = False
    """The encoders of text and images."""
    models: bool = False
    """The blocks of the transformer, and of two transformers the one that does not compute."""
    num_resident: int | None = None
    """Blocks of a transformer that stay on the device while it computes, beside the two between
    which the others take turns; None for all."""

    @property
    def text(self) -> str:
        if self.num_resident is not None:
            return f"blocks:{self.num_resident}"
        return "models" if self.models else "encoders" if self.encoders else "none"


NOTHING = Offload()
ENCODERS = Offload(encoders=True)


def parse_offload(text: str) -> Offload:
    """Return what an option means: none, encoders, models, blocks or blocks:N.

    Raises:
        ValueError: If it is something else.
    """
    if not re.fullmatch(PATTERN, text):
        raise ValueError(
            f"offload is {text!r}; expected none, encoders, models, blocks or blocks:N"
        )
    kind, _, number = text.partition(":")
    return Offload(
        encoders=kind != "none",
        models=kind in ("models", "blocks"),
        num_resident=int(number or 0) if kind == "blocks" else None,
    )


def all_choices(num_blocks: int, world_size: int) -> list[Offload]:
    """Return every choice, in the order of what a job loses by it.

    Several ranks share the transformers' weights instead of copying them from the host.
    """
    choices = [NOTHING, ENCODERS]
    if world_size > 1:
        return choices
    choices.append(Offload(encoders=True, models=True))
    # With two blocks in turn, fewer than two would have to be copied otherwise.
    for number in range(num_blocks - 3, -1, -1):
        choices.append(Offload(encoders=True, models=True, num_resident=number))
    return choices
