"""Runs a module in a helper process, because the launcher never imports torch.

`python -m launcher.helper PARENT_PID MODULE …` runs a module as `python -m` does, and ends with
its parent: importing torch takes seconds, during which the launcher may be killed.
"""

import gc
import os
import runpy
import subprocess
import sys

import msgspec

from broker.process.child import die_with_parent
from broker.process.import_path import python
from ranks.config import DeviceReport


def run_helper(module: str, *arguments: str, limit_s: float) -> subprocess.CompletedProcess[str]:
    """Run a module in a helper process and capture its output.

    Raises:
        subprocess.TimeoutExpired: If it runs longer than `limit_s`; it is killed.
    """
    command = python("launcher.helper", str(os.getpid()), module, *arguments)
    return subprocess.run(
        command, check=False, timeout=limit_s, capture_output=True, errors="replace"
    )


def read_device_report(written: str) -> DeviceReport:
    # torch_npu writes warnings of its own to standard output before the report.
    return msgspec.json.decode(written.splitlines()[-1], type=DeviceReport)


def main() -> None:
    parent_pid, module, *arguments = sys.argv[1:]
    die_with_parent(int(parent_pid))
    sys.argv[1:] = arguments
    gc.disable()  # see `broker.process.child.importing`; this process lives for seconds only
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
