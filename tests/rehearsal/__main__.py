"""Rehearse the server on a real build of torch: `python -m tests.rehearsal cuda --parts fork,join`.

No device is needed: stubs take the place of the vendor's libraries. Kernels do nothing there, so
nothing is said about numbers or speed. A rig that cannot be made here is skipped with one line.
"""

import argparse
import sys
import time

from tests.rehearsal.rig import Kind, RigUnavailable, prepare

_REAL_SIZE = ("--out", "build/rehearsal/real_size.jsonl", "--budget", "54000")
"""This machine may be slow: only what fails counts."""

PARTS: dict[str, tuple[str, ...]] = {
    "fork": ("tests.rehearsal.parts.fork",),
    "join": ("tests.rehearsal.parts.join",),
    "demo": ("tests.rehearsal.parts.demo",),
    "layouts": ("tests.rehearsal.parts.layouts",),
    "memory": ("tests.rehearsal.parts.memory",),
    "kernels": ("tests.rehearsal.parts.kernels",),
    "recompile": ("tests.rehearsal.parts.recompile",),
    "beats": ("tests.rehearsal.parts.join", "--slow"),
    "sticky": ("tests.rehearsal.parts.sticky",),
    "real-size": ("tests.bench.real_size", *_REAL_SIZE),
}
"""The module of each part and its arguments, the quickest parts first."""
ONLY_CUDA = {"kernels", "recompile", "real-size"}


def main() -> int:
    """Run the parts; return how many failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=("cuda", "npu"))
    parser.add_argument("--parts", default=",".join(PARTS), help="which, separated by commas")
    arguments = parser.parse_args()
    names = [name for name in arguments.parts.split(",") if name]
    if unknown := set(names) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    return run(arguments.kind, names)


def run(kind: Kind, names: list[str]) -> int:
    """Run parts on the rig of a kind; return how many failed."""
    begun = time.monotonic()
    try:
        rig = prepare(kind)
    except RigUnavailable as reason:
        _say(f"SKIPPED: the rehearsal on {kind}: {reason}")
        return 0
    _say(f"{kind}: the rig is ready after {time.monotonic() - begun:.0f} s")
    num_failed = 0
    for name in names:
        if kind == "npu" and name in ONLY_CUDA:
            continue
        module, *arguments = PARTS[name]
        begun = time.monotonic()
        is_own = module.startswith("tests.rehearsal.")
        code = rig.run(module, *([kind] if is_own else []), *arguments)
        num_failed += bool(code)
        verdict = "FAILED" if code else "passed"
        _say(f"{kind} {name}: {verdict} after {time.monotonic() - begun:.0f} s")
    return num_failed


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
