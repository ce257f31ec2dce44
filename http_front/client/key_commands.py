"""`wan keys`: manage the API keys in the server's key file, and make CURVE keys."""

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
    lock_key_file,
    make_key,
    read_keys,
    write_keys,
)
from http_front.client.command_parser import Commands
from http_front.client.output import Output

DEFAULT_FILE = "wan-keys.json"


def add_parser(commands: Commands) -> None:
    keys = commands.add_parser("keys", help="manage the server's API keys")
    actions = keys.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="make a key and print it; it is never shown again")
    add.add_argument("--admin", action="store_true", help="allow /admin/* and /metrics")
    for field in structs.fields(Limits):
        about = msgspec.json.schema(field.type)["description"]
        flag = f"--{field.name.replace('_', '-')}"
        add.add_argument(flag, metavar="N", help=f"{about} Default: {field.default}.")
    curve = actions.add_parser("curve", help="make the CURVE keys for a broker on TCP")
    curve.add_argument(
        "folder", metavar="DIR", type=Path, help="new folder; broker/ and peer/ are created in it"
    )
    remove = actions.add_parser("remove", help="remove a key; it stops working at once")
    for action in (add, remove):
        action.add_argument("name", metavar="NAME", help="name of the key, the owner of its jobs")
    listing = actions.add_parser("list", help="list the names and limits of all keys")
    for action in (add, remove, listing):
        action.add_argument(
            "--file",
            type=Path,
            default=Path(os.environ.get("WAN_API_KEYS", DEFAULT_FILE)),
            help=f"key file of --api-keys; default: WAN_API_KEYS, else {DEFAULT_FILE}",
        )


def run(options: argparse.Namespace, output: Output) -> None:
    """Run a key command.

    Raises:
        KeyFileError: If the key file cannot be used, or the change is not possible.
    """
    match options.action:
        case "add":
            with lock_key_file(options.file):
                _add(options, output)
        case "curve":
            _make_curve_keys(options.folder, output)
        case "remove":
            with lock_key_file(options.file):
                _remove(options.file, options.name, output)
        case _:  # list; argparse refuses anything else
            _list(options.file, output)


def _add(options: argparse.Namespace, output: Output) -> None:
    keys = read_keys(options.file) if options.file.exists() else []
    if any(key.name == options.name for key in keys):
        raise KeyFileError(
            f"{options.file} already has a key named {options.name}; remove it first"
        )
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
        key = msgspec.convert(entry, ApiKey, strict=False)  # the limits are still strings
    except msgspec.ValidationError as error:
        raise KeyFileError(f"the key is not valid: {error}") from error
    write_keys(options.file, [*keys, key])
    output.result({"name": key.name, "key": text}, text)
    output.note("Save this key now: only its hash is stored, so it cannot be shown again.")


def _make_curve_keys(folder: Path, output: Output) -> None:
    broker, peer = make_keys(folder)
    output.result(
        {"broker": str(broker), "peer": str(peer)},
        f"{broker}  keep on the broker's machine\n"
        f"{peer}  copy to the machines with ranks or fronts, and to no others",
    )


def _remove(path: Path, name: str, output: Output) -> None:
    keys = read_keys(path)
    left = [key for key in keys if key.name != name]
    if len(left) == len(keys):
        raise KeyFileError(f"{path} has no key named {name}")
    write_keys(path, left)
    output.result({"removed": name}, f"removed the key named {name}")


def _list(path: Path, output: Output) -> None:
    keys = read_keys(path)
    entries = [{"name": key.name, "admin": key.admin, "limits": key.limits} for key in keys]
    output.result({"keys": entries}, "\n".join(map(_as_line, keys)) or "no keys")


def _as_line(key: ApiKey) -> str:
    limits = " ".join(f"{name}={value}" for name, value in structs.asdict(key.limits).items())
    return f"{key.name:20} {'admin' if key.admin else '':5} {limits}"
