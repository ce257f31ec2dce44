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


_CONNECTIONS = """
import weakref
from collections import deque
from http_front.http_server import keep_collections_short

class Connection:
    def __init__(self):
        self.itself = self

keep_collections_short()
open_ones, all_in_memory, most = deque(maxlen=2000), weakref.WeakSet(), 0
for _ in range(60_000):
    connection = Connection()
    open_ones.append(connection)
    all_in_memory.add(connection)
    most = max(most, len(all_in_memory))
print(most)
"""


def test_connections_that_have_ended_are_soon_collected() -> None:
    """They kept 4 MB, for nine minutes at 75 jobs a minute: each is a cycle that lived a while."""
    ran = subprocess.run([sys.executable, "-c", _CONNECTIONS], check=True, capture_output=True)
    assert int(ran.stdout) < 10_000
