"""`wan doctor`: examines what a server would start with, and says what is wrong and what mends it.

It takes the options of `launch.py`, starts nothing and changes nothing.
"""

import logging
import os
import sys
from collections.abc import Iterator, Sequence

import msgspec

from launcher.doctor.accelerators import examine_accelerators
from launcher.doctor.examinations import (
    examine_access,
    examine_ffmpeg,
    examine_limits,
    examine_model,
    examine_port,
    examine_processes,
    examine_realtime_front,
    examine_state,
)
from launcher.doctor.findings import Finding, to_text
from launcher.doctor.shared_store import examine_fleet
from launcher.options import Command, OptionsError, parse_command
from launcher.preflight import Folders
from launcher.ray.ray_check import examine_cluster


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code: 0 unless something keeps a server from starting."""
    words = [word for word in arguments if word != "--json"]
    as_json = len(words) < len(arguments)
    try:
        command = parse_command(words, os.environ, "wan doctor [--json]")
    except OptionsError as fault:
        sys.stderr.write(f"wan doctor: {fault}\n")
        return 2
    return report(command, as_json)


def report(command: Command, as_json: bool = False) -> int:
    """Write what is found; return the exit code."""
    logging.disable()  # the findings say it all
    findings = []
    for finding in examine(command):
        findings.append(finding)
        if not as_json:
            _write(to_text(finding))
    num_errors = sum(finding.level == "error" for finding in findings)
    if as_json:
        _write(msgspec.json.encode({"findings": findings}).decode())
    else:
        _write(f"not ready to start; errors: {num_errors}" if num_errors else "ready to start")
    return int(num_errors > 0)


def examine(command: Command) -> Iterator[Finding]:
    """Look at everything that shall run here; what takes seconds comes last."""
    options = command.options
    folders = Folders.under(options.state_dir, options.store)
    yield from examine_state(folders)
    if command.has_front:
        yield from examine_port(options, folders)
        yield from examine_access(options)
        yield from examine_realtime_front(options)
    yield from examine_processes()
    yield from examine_limits()
    yield from examine_fleet(options, folders)
    if command.has_fleet:
        yield from examine_cluster(options, folders)
    if command.has_groups:
        yield from examine_model(options, folders)
        yield from examine_ffmpeg()
        yield from examine_accelerators(options)


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
