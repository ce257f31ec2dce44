"""Reads a Containerfile."""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Instruction:
    """One instruction, including its continuation lines."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """The words of the exec form, which is JSON, or of the shell form."""
        if self.text.startswith("["):
            return [str(word) for word in json.loads(self.text)]
        return shlex.split(self.text)


def instructions(path: Path) -> list[Instruction]:
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.M).replace("\\\n", " ")
    lines = (line.partition(" ") for line in text.splitlines() if line)
    return [Instruction(name, rest.strip()) for name, _, rest in lines]


def of(image: list[Instruction], name: str) -> list[Instruction]:
    return [instruction for instruction in image if instruction.name == name]


def variables(image: list[Instruction]) -> dict[str, str]:
    """Return the environment variables that an image sets."""
    return dict(word.split("=", 1) for env in of(image, "ENV") for word in env.words)
