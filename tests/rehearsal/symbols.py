"""Which functions a binary expects of other libraries, by `nm` and `readelf` of binutils."""

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, order=True)
class Symbol:
    """A name that the loader looks up, and the version node it must carry, if any."""

    name: str
    version: str = ""


def undefined(libraries: Iterable[Path]) -> set[Symbol]:
    """Return what libraries need and do not hold; weak symbols may stay missing."""
    return parse_undefined(_run("nm", "-D", "--undefined-only", *map(str, libraries)))


def parse_undefined(text: str) -> set[Symbol]:
    """Return the symbols in the output of `nm -D --undefined-only`."""
    fields = (line.split() for line in text.splitlines())
    words = (field[1].partition("@") for field in fields if len(field) == 2 and field[0] == "U")
    return {Symbol(name, version.lstrip("@")) for name, _, version in words}


def defined(libraries: Iterable[Path], *, dynamic: bool = True) -> set[str]:
    """Return the names that libraries, or object files, hold for others."""
    table = ["-D"] if dynamic else []
    text = _run("nm", *table, "--defined-only", "--extern-only", *map(str, libraries))
    return parse_defined(text)


def parse_defined(text: str) -> set[str]:
    """Return the names in the output of `nm --defined-only`."""
    fields = (line.split() for line in text.splitlines())
    return {field[2].partition("@")[0] for field in fields if len(field) == 3}


def needed_libraries(libraries: Iterable[Path]) -> set[str]:
    """Return the file names of the libraries that the loader has to find for others."""
    text = _run("readelf", "--dynamic", "--wide", *map(str, libraries))
    return set(re.findall(r"\(NEEDED\).*\[(.+)\]", text))


def names_in(paths: Iterable[Path], pattern: re.Pattern[bytes]) -> set[str]:
    """Return the strings in files that a pattern matches: names for `dlsym` are such strings."""
    found: set[bytes] = set()
    for path in paths:
        found.update(pattern.findall(path.read_bytes()))
    return {name.decode() for name in found}


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
