"""What keeps machines from working together, for `wan doctor`."""

from collections.abc import Iterator

from broker.store.store import PARTIAL, is_object_place
from launcher.doctor.findings import Finding, error, ok
from launcher.joining import check_files, check_store, tcp_addresses, try_listening
from launcher.options import Options
from launcher.preflight import Folders, StartError, state_owner

_SHOW_AWS = "env | grep ^AWS_ | cut -d= -f1"
"""Names alone: some of the values are secrets."""


def examine_fleet(options: Options, folders: Folders) -> Iterator[Finding]:
    """Look whether others could join, or whether the server that is to be joined can be.

    And whether the store can be used, if it is an object store: a small file is put there for it.
    """
    if is_object_place(folders.store) and options.join is None:
        yield _examine_store(folders)
    if options.listen is not None:
        yield _examine_listening(options, options.listen, folders)
    if options.join is not None:
        yield _examine_joining(options, options.join, folders)


def _examine_store(folders: Folders) -> Finding:
    try:
        check_store(folders)
    except StartError as fault:
        return error("store", str(fault), _SHOW_AWS)
    return ok("store", f"files can be written to {folders.store}, read and removed")


def _examine_listening(options: Options, place: str, folders: Folders) -> Finding:
    try:
        addresses = tcp_addresses("--listen", place, options.curve_keys)
        if (owner := state_owner(folders)) is not None:
            return ok("listen", f"{place} is that of the server with pid {owner}")
        try_listening(addresses)
    except StartError as fault:
        return error("listen", str(fault), "wan keys curve keys; ss -ltnp")
    return ok("listen", f"other machines can join at {place}")


def _examine_joining(options: Options, place: str, folders: Folders) -> Finding:
    try:
        check_files(tcp_addresses("--join", place, options.curve_keys), folders)
    except StartError as fault:
        mend = f"ls -ld {folders.store}/{PARTIAL} {options.curve_keys or ''}".rstrip()
        return error("join", str(fault), _SHOW_AWS if is_object_place(folders.store) else mend)
    return ok("join", f"{place} answers, and its files are in {folders.store}")
