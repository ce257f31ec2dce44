"""LoRAs: small files that change a model's weights, and what jobs and profiles say of them."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

MAX_LORAS = 4
"""How many LoRAs one job may take."""
LORA_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
LoraName = Annotated[str, Meta(pattern=LORA_NAME_PATTERN)]
Strength = Annotated[float, Meta(ge=-10.0, le=10.0)]


class LoraChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A LoRA that a job takes."""

    name: Annotated[
        str, Meta(pattern=LORA_NAME_PATTERN, description="Name of a LoRA that the server lists.")
    ]
    strength: Annotated[
        float, Meta(ge=-10.0, le=10.0, description="Factor of the change; 1 is the trained one.")
    ] = 1.0


class KnownLora(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A LoRA that jobs may take, or that a model always has."""

    name: LoraName
    hashes: tuple[str, ...]
    """SHA-256 of its files in hexadecimal: one, or two for a model with two transformers."""
    strength: Strength | None = None
    """Of one that the model always has; None where each job chooses it."""


LoraHashes = Mapping[str, tuple[str, ...]]
"""By name of a LoRA: the `hashes` of its files."""
NO_HASHES: LoraHashes = {}
"""Shared by the jobs without LoRAs: an empty dict of its own for each takes memory."""


def hashes_of(choices: Sequence[LoraChoice], known: Sequence[KnownLora]) -> LoraHashes:
    """Return the hashes of the LoRAs that a job takes, as far as they are known."""
    if not choices:
        return NO_HASHES
    by_name = {lora.name: lora.hashes for lora in known}
    return {choice.name: by_name[choice.name] for choice in choices if choice.name in by_name}


def lora_fault(choices: Sequence[LoraChoice], known: Sequence[KnownLora], model: str) -> str | None:
    """Return why a job may not take these LoRAs of a model; None if it may."""
    if not choices:
        return None
    names = [choice.name for choice in choices]
    listed = ", ".join(lora.name for lora in known)
    for name in names:
        if name not in {lora.name for lora in known}:
            offer = f"it has {listed}" if listed else "it has none: the server needs --loras"
            return f"loras names {name}, which {model} does not have; {offer}"
        if names.count(name) > 1:
            return f"loras names {name} twice; name it once, with the strength that it should have"
    return None
