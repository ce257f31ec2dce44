"""`--check` has the devices compute. The last file: the check runs beside the tests before it."""

import subprocess


def test_the_check_before_a_start_tries_the_devices(check_process: "subprocess.Popen[str]") -> None:
    found, _ = check_process.communicate(timeout=120)
    assert "2 ranks computed on npu and exchanged results" in found
    # Other tests kill their servers meanwhile, and the check may see what is left for a moment.
    problems = [line for line in found.splitlines() if line.startswith("error")]
    assert [line for line in problems if "left by an earlier server" not in line] == []
    assert check_process.returncode == bool(problems), found
