"""`wan doctor`: checks what a server needs on this machine, and names the fix for each fault.

It takes the options of `launch.py`. It starts no server and changes nothing.
"""

import logging
import os
import sys
from collections.abc import Iterator, Sequence

import msgspec

from launcher.command_line import Command, parse_command
from launcher.doctor.accelerators import accelerator_findings
from launcher.doctor.checks import (
    access_findings,
    ffmpeg_findings,
    journal_findings,
    limit_findings,
    model_findings,
    port_findings,
    priority_findings,
    process_findings,
    state_findings,
    variable_findings,
)
from launcher.doctor.findings import Finding, to_text, warning
from launcher.doctor.multi_machine import multi_machine_findings
from launcher.options import OptionsError
from launcher.outer_variables import ignore_outer_variables
from launcher.preflight import Folders
from launcher.ray.ray_check import cluster_findings


def main(arguments: Sequence[str]) -> int:
    """Return the exit code: 0 if a server can start, 1 if not, 2 for invalid options."""
    words = [word for word in arguments if word != "--json"]
    as_json = len(words) < len(arguments)
    try:
        command = parse_command(words, os.environ, "wan doctor [--json]")
    except OptionsError as fault:
        sys.stderr.write(f"wan doctor: {fault}\n")
        return 2
    return report(command, as_json)


def report(command: Command, as_json: bool = False) -> int:
    logging.disable()  # the findings say it all
    ignore_outer_variables(os.environ)
    findings = []
    for finding in run_checks(command):
        findings.append(finding)
        if not as_json:
            _write(to_text(finding))
    num_errors = sum(finding.level == "error" for finding in findings)
    if as_json:
        _write(msgspec.json.encode({"findings": findings}).decode())
    else:
        _write(f"not ready to start; errors: {num_errors}" if num_errors else "ready to start")
    return int(num_errors > 0)


def run_checks(command: Command) -> Iterator[Finding]:
    # The slowest checks come last.
    options = command.options
    folders = Folders.under(options.state_dir, options.store)
    yield from state_findings(folders)
    yield from journal_findings(folders)
    if command.has_front:
        yield from port_findings(options, folders)
        yield from access_findings(options)
        yield from priority_findings(options)
    for note in command.notes:
        yield warning("environment", note)
    yield from process_findings()
    yield from limit_findings()
    yield from multi_machine_findings(options, folders)
    if command.has_ray_groups:
        yield from cluster_findings(options, folders)
    if command.has_groups:
        yield from model_findings(options, folders)
        yield from ffmpeg_findings()
        yield from variable_findings()
        yield from accelerator_findings(options, folders)


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
