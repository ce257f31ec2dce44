"""`--check` has the devices compute. The last file: the check runs beside the tests before it."""

import subprocess


def test_the_check_before_a_start_tries_the_devices(check_process: "subprocess.Popen[str]") -> None:
    found, _ = check_process.communicate(timeout=120)
    assert "2 ranks computed on npu and exchanged results" in found
    assert check_process.returncode == 0
