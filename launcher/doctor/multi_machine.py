"""Checks of a server on several machines: the shared store, `--listen` and `--join`."""

from collections.abc import Iterator

from broker.store.store import PARTIAL, is_object_place
from launcher.doctor.findings import Finding, error, ok
from launcher.joining import check_files, check_store, tcp_addresses, try_listening
from launcher.options import Options
from launcher.preflight import Folders, StartError, state_owner

_SHOW_AWS = "env | grep ^AWS_ | cut -d= -f1"
"""Prints only the names: some of the values are secrets."""


def multi_machine_findings(options: Options, folders: Folders) -> Iterator[Finding]:
    # In an object store, this check writes a small file and deletes it.
    if is_object_place(folders.store) and options.join is None:
        yield _check_store(folders)
    if options.listen is not None:
        yield _check_listening(options, options.listen, folders)
    if options.join is not None:
        yield _check_joining(options, options.join, folders)


def _check_store(folders: Folders) -> Finding:
    try:
        check_store(folders)
    except StartError as fault:
        return error("store", str(fault), _SHOW_AWS)
    return ok("store", f"files can be written to {folders.store}, read and deleted")


def _check_listening(options: Options, address: str, folders: Folders) -> Finding:
    try:
        addresses = tcp_addresses("--listen", address, options.curve_keys)
        if (owner := state_owner(folders)) is not None:
            return ok("listen", f"{address} is held by this state directory's server, pid {owner}")
        try_listening(addresses)
    except StartError as fault:
        return error("listen", str(fault), "wan keys curve keys; ss -ltnp")
    return ok("listen", f"other machines can join at {address}")


def _check_joining(options: Options, address: str, folders: Folders) -> Finding:
    try:
        check_files(tcp_addresses("--join", address, options.curve_keys), folders)
    except StartError as fault:
        fix = f"ls -ld {folders.store}/{PARTIAL} {options.curve_keys or ''}".rstrip()
        return error("join", str(fault), _SHOW_AWS if is_object_place(folders.store) else fix)
    return ok("join", f"{address} answers, and its files are in {folders.store}")
