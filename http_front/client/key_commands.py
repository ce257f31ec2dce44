"""`wan keys`: make, list and remove the API keys in the server's file, and make CURVE keys."""

import argparse
import os
from pathlib import Path

import msgspec
from msgspec import structs

from broker.wire.curve import make_keys
from http_front.access.keys import (
    ApiKey,
    KeyFileError,
    Limits,
    hash_key,
    make_key,
    read_keys,
    sole_writer,
    write_keys,
)
from http_front.client.command_parser import Commands
from http_front.client.output import Output

DEFAULT_FILE = "wan-keys.json"


def add_parser(commands: Commands) -> None:
    """Add `keys` and what it can do to the commands of `wan`."""
    keys = commands.add_parser("keys", help="manage the server's API keys")
    actions = keys.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="make a key and print it, this once")
    add.add_argument("--admin", action="store_true", help="let it use /admin/*")
    for field in structs.fields(Limits):
        about = msgspec.json.schema(field.type)["description"]
        flag = f"--{field.name.replace('_', '-')}"
        add.add_argument(flag, metavar="N", help=f"{about} Default: {field.default}.")
    curve = actions.add_parser("curve", help="make the keys of a broker that is reached over TCP")
    curve.add_argument("folder", metavar="DIR", type=Path, help="new; gets broker/ and peer/")
    remove = actions.add_parser("remove", help="make a key worthless at once")
    for action in (add, remove):
        action.add_argument("name", metavar="NAME", help="whose key it is; its jobs belong to it")
    for action in (add, remove, actions.add_parser("list", help="list the keys' names and limits")):
        action.add_argument(
            "--file",
            type=Path,
            default=Path(os.environ.get("WAN_API_KEYS", DEFAULT_FILE)),
            help=f"the file given to --api-keys; default: WAN_API_KEYS, else {DEFAULT_FILE}",
        )


def run(options: argparse.Namespace, output: Output) -> None:
    """Carry out a command.

    Raises:
        KeyFileError: If it cannot be done.
    """
    match options.action:
        case "add":
            with sole_writer(options.file):
                _add(options, output)
        case "curve":
            _make_curve_keys(options.folder, output)
        case "remove":
            with sole_writer(options.file):
                _remove(options.file, options.name, output)
        case _:  # argparse lets no other through
            _list(options.file, output)


def _add(options: argparse.Namespace, output: Output) -> None:
    keys = read_keys(options.file) if options.file.exists() else []
    if any(key.name == options.name for key in keys):
        raise KeyFileError(f"there is a key named {options.name} already; remove it first")
    text = make_key()
    entry = {
        "name": options.name,
        "sha256": hash_key(text),
        "admin": options.admin,
        "limits": {
            name: value
            for name in Limits.__struct_fields__
            if (value := getattr(options, name)) is not None
        },
    }
    try:
        key = msgspec.convert(entry, ApiKey, strict=False)  # the numbers are still text
    except msgspec.ValidationError as error:
        raise KeyFileError(f"no such key can be made: {error}") from error
    write_keys(options.file, [*keys, key])
    output.result({"name": key.name, "key": text}, text)
    output.note("Keep it: only its hash is stored, nobody can show it again.")


def _make_curve_keys(folder: Path, output: Output) -> None:
    broker, peer = make_keys(folder)
    output.result(
        {"broker": str(broker), "peer": str(peer)},
        f"{broker}  stays on the broker's machine\n"
        f"{peer}  goes to every machine with ranks or fronts, and nowhere else",
    )


def _remove(path: Path, name: str, output: Output) -> None:
    keys = read_keys(path)
    left = [key for key in keys if key.name != name]
    if len(left) == len(keys):
        raise KeyFileError(f"there is no key named {name} in {path}")
    write_keys(path, left)
    output.result({"removed": name}, f"removed the key named {name}")


def _list(path: Path, output: Output) -> None:
    keys = read_keys(path)
    told = [{"name": key.name, "admin": key.admin, "limits": key.limits} for key in keys]
    output.result({"keys": told}, "\n".join(map(_line, keys)) or "no keys")


def _line(key: ApiKey) -> str:
    limits = " ".join(f"{name}={value}" for name, value in structs.asdict(key.limits).items())
    return f"{key.name:20} {'admin' if key.admin else '':5} {limits}"
