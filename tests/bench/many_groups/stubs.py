"""Some of the stub groups: `python -m tests.bench.many_groups.stubs JSON`, until SIGTERM."""

import random
import signal
import sys
from pathlib import Path

import msgspec

from broker.process import child
from broker.wire.sockets import Addresses
from tests.bench.many_groups.loop import Loop
from tests.bench.many_groups.stub import Record, StubGroup


class StubsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How these groups behave."""

    addresses: Addresses
    names: list[str]
    join_s: float
    """Time over which the groups join."""
    run_s: float
    lost_per_s: float
    """Epochs lost per second once all have joined: half reported, half silent."""
    lost_s: float
    """Silence after which the broker counts a group as lost."""
    record: str
    """File for the record."""
    parent_pid: int


class Stubs:
    """All groups of this process, and their faults."""

    def __init__(self, config: StubsConfig) -> None:
        self._loop = Loop()
        self._lost_s = config.lost_s
        self._record = Record()
        self._random = random.Random(config.names[0])
        self._groups = [
            StubGroup(
                self._loop, config.addresses, self._record, name, config.run_s,
                self._random.random(),
            )
            for name in config.names
        ]  # fmt: skip
        for number, group in enumerate(self._groups):
            self._loop.after(config.join_s * number / len(self._groups), group.start)
        if config.lost_per_s:
            self._loop.every(2.0 / config.lost_per_s, self._lose_two, config.join_s)

    def run(self) -> Record:
        """Serve until SIGTERM; return the record."""
        signal.signal(signal.SIGTERM, lambda *_: self._loop.stop())
        self._loop.run()
        return self._record

    def _lose_two(self) -> None:
        alive = [group for group in self._groups if group.is_alive]
        if len(alive) >= 2:
            first, second = self._random.sample(alive, 2)
            first.die()
            second.vanish(self._lost_s)


def main() -> None:
    config = msgspec.json.decode(sys.argv[1], type=StubsConfig)
    child.begin("stubs", config.parent_pid, "text")
    child.allow_many_files()
    record = Stubs(config).run()
    Path(config.record).write_bytes(msgspec.json.encode(record))
    # Closing thousands of sockets takes long, so exit without it.
    sys.stdout.flush()


if __name__ == "__main__":
    main()
