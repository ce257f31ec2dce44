"""What keeps machines from working together, for `wan doctor`."""

from collections.abc import Iterator

from launcher.findings import Finding, error, ok
from launcher.joining import check_files, tcp_addresses, try_listening
from launcher.options import Options
from launcher.preflight import Folders, StartError, state_owner


def examine_fleet(options: Options, folders: Folders) -> Iterator[Finding]:
    """Look whether others could join, or whether the server that is to be joined can be."""
    if options.listen is not None:
        yield _examine_listening(options, options.listen, folders)
    if options.join is not None:
        yield _examine_joining(options, options.join, folders)


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
        mend = f"ls -ld {folders.videos}/.partial {options.curve_keys or ''}"
        return error("join", str(fault), mend.rstrip())
    return ok("join", f"{place} answers, and its files are in {folders.files}")
