"""The front's garbage collector leaves alone what lives as long as the process."""

import subprocess
import sys

_COUNT = """
import gc
from http_front.http_server import keep_collections_short
keep_collections_short()
print(len(gc.get_objects()))
"""


def test_a_full_collection_does_not_walk_over_every_module() -> None:
    """It would stop every request for tens of milliseconds, and garbage would wait for it."""
    ran = subprocess.run([sys.executable, "-c", _COUNT], check=True, capture_output=True)
    assert int(ran.stdout) < 1000
