"""Building one stub library: functions written in C, and generated ones for the rest."""

import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.rehearsal.symbols import Symbol, defined

_FLAGS = ("-O1", "-fPIC", "-fno-builtin", "-Wall", "-Wno-unused-parameter")


def generated_c(names: Iterable[str]) -> str:
    """Return C for functions that succeed and do nothing, whatever they are passed."""
    return "".join(f"long {name}(void) {{ return 0; }}\n" for name in sorted(names))


def version_script(symbols: Iterable[Symbol]) -> str:
    """Return a linker script that gives symbols the version nodes they are looked up by.

    A symbol without one stays global in the first node, where an unversioned look-up finds it.
    """
    nodes: dict[str, list[str]] = {}
    for symbol in sorted(symbols):
        if symbol.version:
            nodes.setdefault(symbol.version, []).append(symbol.name)
    return "".join(
        f"{version} {{ global: {' '.join(f'{name};' for name in names)} }};\n"
        for version, names in nodes.items()
    )


def build(
    library: Path,
    symbols: set[Symbol],
    source: Path | None = None,
    *,
    includes: Iterable[Path] = (),
) -> None:
    """Compile and link a stub library.

    Args:
        library: The file to make; its name is the name that others need.
        symbols: What others look up in it.
        source: C for the functions that have to do something.
        includes: Folders of headers for it.
    """
    objects = [_compile(source, library.with_suffix(".o"), includes)] if source else []
    written = defined(objects, dynamic=False) if objects else set()
    rest = library.with_suffix(".rest.c")
    rest.write_text(generated_c({symbol.name for symbol in symbols} - written))
    objects.append(_compile(rest, rest.with_suffix(".o"), ()))
    script = library.with_suffix(".map")
    script.write_text(version_script(symbols))
    options = [f"-Wl,--version-script={script}"] if script.read_text() else []
    _link(library, [*map(str, objects), *options, "-ldl"])


def build_alias(library: Path, target: Path) -> None:
    """Make an empty library that leads the loader to another one."""
    name = f"-l:{target.name}"
    _link(library, ["-L", str(target.parent), "-Wl,--no-as-needed", name])


def _compile(source: Path, target: Path, includes: Iterable[Path]) -> Path:
    folders = [f"-I{folder}" for folder in includes]
    # The generated functions take other names' signatures for their own; nothing here is called.
    subprocess.run(["cc", *_FLAGS, *folders, "-c", str(source), "-o", str(target)], check=True)
    return target


def _link(library: Path, inputs: list[str]) -> None:
    name = f"-Wl,-soname,{library.name}"
    subprocess.run(["cc", "-shared", "-o", str(library), name, *inputs], check=True)
