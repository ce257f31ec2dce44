"""The form of `--lora`: NAME=FILE@STRENGTH, or NAME=HIGH,LOW@STRENGTH."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from broker.wire.lora import LORA_NAME_PATTERN

_BEGIN = re.compile(rf"{LORA_NAME_PATTERN.removesuffix('$')}=")
_STRENGTH = re.compile(r"(.+)@([^@/,]+)")
_LARGEST = 10.0


def join_pairs(parts: Sequence[str]) -> list[str]:
    """Return the LoRAs of a list that was split at its commas, which also stand within pairs."""
    joined: list[str] = []
    for part in parts:
        if joined and not _BEGIN.match(part):
            joined[-1] += f",{part}"
        else:
            joined.append(part)
    return joined


def split_strength(files: str) -> tuple[str, float]:
    """Return the files and the strength, which is 1 if it is left out.

    Raises:
        ValueError: If the strength is no number.
    """
    match = _STRENGTH.fullmatch(files)
    return (match[1], float(match[2])) if match else (files, 1.0)


def absolute(entry: str) -> str:
    """Return a checked entry with absolute paths."""
    name, _, rest = entry.partition("=")
    files, strength = split_strength(rest)
    paths = ",".join(str(Path(path).resolve()) for path in files.split(","))
    return f"{name}={paths}@{strength!r}"


def check_lora_options(entries: Sequence[str]) -> None:
    """Check the form of all `--lora`.

    Raises:
        ValueError: If one has another form, or two have one name.
    """
    for entry in entries:
        match = _BEGIN.match(entry)
        files = "" if match is None else entry[match.end() :]
        paths = files.split(",")
        if not files or not all(paths) or len(paths) > 2 or not _is_strong_enough(files):
            raise ValueError(
                f"lora has {entry!r}; expected NAME=FILE or NAME=HIGH,LOW, with @STRENGTH from "
                f"-{_LARGEST:g} to {_LARGEST:g} at the end if it is not 1"
            )
    names = [entry.partition("=")[0] for entry in entries]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"lora names {twice} twice; give each LoRA its own name")


def _is_strong_enough(files: str) -> bool:
    try:
        strength = split_strength(files)[1]
    except ValueError:
        return False
    return math.isfinite(strength) and abs(strength) <= _LARGEST
