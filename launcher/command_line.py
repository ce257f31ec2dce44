"""Parses a command line: flags over environment variables over a file over the defaults."""

import argparse
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from launcher.lora_options import join_pairs
from launcher.options import Options, OptionsError, Role

_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://[0-9.:\[\]a-f]+:[0-9]+$")
"""What Kubernetes puts into WAN_PORT of every container if a service is called `wan`."""
_DEMO_SWITCHES = {"--demo": "--demo=true", "--no-demo": "--demo=false"}
"""Only `=` gives it families: the next word may be the role."""
_SWITCH = ("true", "false", "1", "0")


class Command(msgspec.Struct, frozen=True):
    """A parsed command line."""

    role: Role
    options: Options
    action: Literal["run", "print-config", "check"]

    def __post_init__(self) -> None:
        if self.role == "server" and self.options.join is not None:
            raise OptionsError("--join is for `launch.py group` and `launch.py front`")
        if self.role != "server" and self.options.join is None:
            raise OptionsError(f"launch.py {self.role} needs --join tcp://HOST:PORT")
        if self.role != "server" and self.options.listen is not None:
            raise OptionsError(f"--listen is for a server; launch.py {self.role} joins one")

    @property
    def has_front(self) -> bool:
        return self.role != "group"

    @property
    def has_groups(self) -> bool:
        """Whether this machine starts ranks; Ray may place others on it."""
        return self.role != "front" and self.options.num_groups > 0 and not self.has_ray_groups

    @property
    def has_ray_groups(self) -> bool:
        return self.options.engine == "ray"


def parse_command(
    argv: list[str], environ: Mapping[str, str], program: str = "launch.py"
) -> Command:
    """Parse a command line, with defaults from `--config` and the environment.

    Args:
        argv: The command line without the program's name.
        environ: Where the `WAN_…` variables are looked up.
        program: The program's name in the help.

    Raises:
        OptionsError: If a value is invalid; the message names the option, the value and the limits.
    """
    flags = vars(_parser(program).parse_args([_DEMO_SWITCHES.get(word, word) for word in argv]))
    config_file, action, role = flags.pop("config"), flags.pop("action"), flags.pop("role")
    merged: dict[str, Any] = {}
    if config_file is not None:
        merged |= _from_file(Path(config_file))
    merged |= _from_environment(environ)
    merged |= {name: _text(value) for name, value in flags.items() if value is not None}
    try:
        # Not strict: the environment and the flags hold text.
        options = msgspec.convert(_split_lists(merged), Options, strict=False)
    except msgspec.ValidationError as error:
        raise OptionsError(_explain(error, merged)) from error
    return Command(role=role, options=options, action=action)


def to_toml(options: Options) -> str:
    lines = []
    for name, value in msgspec.structs.asdict(options).items():
        if value is not None:
            lines.append(f"{name} = {msgspec.json.encode(value).decode()}")
    return "\n".join(lines)


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Start the video server: broker, HTTP front and ranks. Or start groups of "
        "ranks, or an HTTP front, that join a server elsewhere (--join).",
        epilog="Each option is also a key of the TOML file (--config) and a variable WAN_OPTION.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "role",
        nargs="?",
        choices=get_args(Role),
        default="server",
        help="what to start here (default: server)",
    )
    for field in msgspec.structs.fields(Options):
        _add_flag(parser, field)
    parser.add_argument("--config", metavar="FILE", help="TOML file with any of these options")
    parser.add_argument(
        "--print-config",
        action="store_const",
        const="print-config",
        dest="action",
        default="run",
        help="print the effective options as TOML and exit",
    )
    parser.add_argument(
        "--check",
        action="store_const",
        const="check",
        dest="action",
        help="check whether a server can start here and exit",
    )
    return parser


def _add_flag(parser: argparse.ArgumentParser, field: msgspec.structs.FieldInfo) -> None:
    flag = f"--{field.name.replace('_', '-')}"
    default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
    shown = "" if default in (None, "") else f" (default: {default})"
    text = f"{_description(field.type)}{shown}"
    if field.name == "demo":
        parser.add_argument(flag, dest=field.name, help=text, nargs="?", metavar="FAMILY,…")
    elif _is_switch(field):
        parser.add_argument(
            flag, dest=field.name, help=text, action=argparse.BooleanOptionalAction, default=None
        )
    elif isinstance(field.default, tuple):
        parser.add_argument(flag, dest=field.name, help=text, metavar="A,B", action="append")
    else:
        parser.add_argument(flag, dest=field.name, help=text, metavar="VALUE")


def _is_switch(field: msgspec.structs.FieldInfo) -> bool:
    # A switch without a default is neither on nor off if it is left out.
    return isinstance(field.default, bool) or bool in get_args(next(iter(get_args(field.type)), 0))


def _description(annotation: Any) -> str:
    # An optional field has its description in one of the alternatives of its type.
    for part in (annotation, *get_args(annotation)):
        for meta in getattr(part, "__metadata__", ()):
            if isinstance(meta, Meta) and meta.description:
                return meta.description
    raise TypeError(f"an option of type {annotation} has no description")


def _from_file(path: Path) -> dict[str, Any]:
    try:
        # Some editors write a byte order mark.
        content = tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise OptionsError(f"--config {path}: {os.strerror(error.errno or 0)}") from error
    except UnicodeDecodeError as error:
        raise OptionsError(f"--config {path} is not in UTF-8; save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise OptionsError(f"--config {path}: {error}") from error
    for name in content:
        if name not in Options.__struct_fields__:
            raise OptionsError(f"--config {path}: unknown option {name}")
    return content


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    names = {f"WAN_{field.name.upper()}": field.name for field in msgspec.structs.fields(Options)}
    return {
        name: environ[key]
        for key, name in names.items()
        if key in environ and not _SERVICE_LINK.match(environ[key])
    }


def _split_lists(merged: dict[str, Any]) -> dict[str, Any]:
    fields = msgspec.structs.fields(Options)
    lists = {field.name for field in fields if isinstance(field.default, tuple)}
    if str(merged.get("demo", True)).lower() not in _SWITCH:
        lists.add("demo")
    split = {
        name: _parts(value) if name in lists and isinstance(value, str) else value
        for name, value in merged.items()
    }
    if isinstance(merged.get("lora"), str):
        split["lora"] = join_pairs(split["lora"])
    return split


def _text(value: Any) -> Any:
    """Return the text of a flag that was repeated."""
    return ",".join(value) if isinstance(value, list) else value


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _choices(name: str) -> tuple[str, ...]:
    annotation = next(f.type for f in msgspec.structs.fields(Options) if f.name == name)
    parts = get_args(annotation)
    nested = (deep for part in parts for deep in get_args(part))
    literals = [part for part in (*parts, *nested) if get_origin(part) is Literal]
    return get_args(literals[0]) if literals else ()


def _explain(error: msgspec.ValidationError, merged: dict[str, Any]) -> str:
    text, _, path = str(error).partition(" - at `$.")
    name = path.rstrip("`").partition("[")[0]
    if name not in merged:
        return text
    if choices := _choices(name):
        text = f"it must be one of {', '.join(choices)}"
    return f"--{name.replace('_', '-')} is {merged[name]!r}: {text[:1].lower()}{text[1:]}"
