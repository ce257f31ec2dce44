"""The units of `deploy/systemd/`, as far as they can be tested without systemd as process 1."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.command_line import Command
from tests.deploy.files import DEPLOY, assignments, launched, stop_limit_s

UNITS = {
    "server": DEPLOY / "systemd" / "wan-ranks.service",
    "group": DEPLOY / "systemd" / "wan-ranks-group.service",
    "front": DEPLOY / "systemd" / "wan-ranks-front.service",
}
PYTHON = "/opt/wan-ranks/.venv/bin/python"
ETC = "/etc/wan-ranks/"


@pytest.fixture(params=UNITS)
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def unit(role: str) -> dict[str, list[str]]:
    settings: dict[str, list[str]] = {}
    for line in UNITS[role].read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            settings.setdefault(name, []).append(value)
    return settings


def test_systemd_finds_no_fault(role: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    # The program must exist, so its path is replaced.
    copy = tmp_path / UNITS[role].name
    copy.write_text(UNITS[role].read_text().replace(PYTHON, sys.executable))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_a_unit_starts_its_role_with_valid_options(role: str, unit: dict[str, list[str]]) -> None:
    command = started_by(unit)
    assert command.role == role
    assert unit["StateDirectory"] == [Path(command.options.state_dir).name]


def test_a_unit_may_write_to_its_store(role: str, unit: dict[str, list[str]]) -> None:
    store = started_by(unit).options.store
    assert store is None if role == "server" else store in unit["ReadWritePaths"]
    assert unit["ProtectSystem"] == ["strict"]


def test_a_stop_has_the_time_that_the_launcher_needs(unit: dict[str, list[str]]) -> None:
    assert float(unit["TimeoutStopSec"][0]) > stop_limit_s(started_by(unit))
    assert unit["KillMode"] == ["mixed"]


def test_units_with_ranks_see_the_devices(role: str, unit: dict[str, list[str]]) -> None:
    hides = {"PrivateDevices", "DevicePolicy", "MemoryDenyWriteExecute", "ProtectKernelTunables"}
    assert bool(hides & set(unit)) == (role == "front")


def started_by(unit: dict[str, list[str]]) -> Command:
    """Parse a unit's command with the variables of its environment file."""
    environ = dict(pair.split("=", 1) for pair in unit["Environment"][0].split())
    for path in unit["EnvironmentFile"]:
        if not path.startswith("-"):
            environ |= assignments(DEPLOY / "systemd" / path.removeprefix(ETC))
    (line,) = unit["ExecStart"]
    assert line.startswith(PYTHON)
    return launched(line.split(), environ)
