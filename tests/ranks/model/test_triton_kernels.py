"""The kernels written in Triton; `make rehearse-cuda` checks them where Triton is not installed."""

import importlib.util
import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="this build of torch brings no Triton; `make rehearse-cuda` has one",
)
def test_kernels_in_triton_equal_the_plain_formulas() -> None:
    command = [sys.executable, "-m", "tests.ranks.model.triton_equality"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
