"""A command whose reader has ended ends, too, without a traceback."""

import os
import subprocess
import sys

import pytest

from broker.process.standard_streams import PIPE_EXIT_CODE
from tests.running_server import ROOT


@pytest.mark.parametrize(
    ("words", "exit_code"),
    [
        (("launch.py", "--print-config"), PIPE_EXIT_CODE),
        (("launch.py", "--help"), 0),  # argparse keeps the error to itself
        (("-m", "launcher.wan", "--help"), 0),
    ],
)
def test_a_reader_that_ends_early_ends_the_command(words: tuple[str, ...], exit_code: int) -> None:
    """As in `launch.py --check | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (exit_code, b"")
