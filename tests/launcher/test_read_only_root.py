"""A hardened container: a user without a name or home, and one folder that may be written to."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 120.0
SCRIPT = """
set -e
mount --bind "$1" "$1"
mount -o remount,ro,bind /
[ "$(stat -c %d /tmp)" = "$(stat -c %d /)" ] || mount -o remount,ro /tmp
exec unshare --user --map-user=12345 "$2" "$3" --check --demo --nproc 1 --port 0 --state-dir "$1"
"""


def may_unshare() -> bool:
    command = ["unshare", "--mount", "unshare", "--user", "--map-user=12345", "true"]
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_a_rank_computes_under_a_read_only_root(tmp_path: Path) -> None:
    if not may_unshare():
        pytest.skip("this user may not make namespaces")
    state = tmp_path / "state"
    state.mkdir()
    environ = {name: value for name, value in os.environ.items() if name != "HOME"}
    command = ["unshare", "--mount", "sh", "-c", SCRIPT, "sh"]
    checked = subprocess.run(
        [*command, str(state), sys.executable, str(ROOT / "launch.py")],
        env=environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert checked.stdout.splitlines()[-1:] == ["ready to start"], checked.stdout + checked.stderr
    assert checked.returncode == 0
