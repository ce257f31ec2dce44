"""A part of the fleet: `python -m tests.bench.fleet.stubs JSON`, until SIGTERM."""

import random
import signal
import sys
from pathlib import Path

import msgspec

from broker.process import child
from broker.wire.sockets import Addresses
from tests.bench.fleet.loop import Loop
from tests.bench.fleet.stub import Record, StubGroup


class StubsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How this part of the fleet behaves."""

    addresses: Addresses
    names: list[str]
    join_s: float
    """Over which time the groups come."""
    run_s: float
    lost_per_s: float
    """Lives that are lost in a second, after all have come: half with a word, half without."""
    lost_s: float
    """After which silence the broker gives a group up."""
    record: str
    """File for what they have done."""
    parent_pid: int


class Stubs:
    """All groups of this process, and their bad luck."""

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
        """Serve until SIGTERM; return what was done."""
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
    """Run until SIGTERM."""
    config = msgspec.json.decode(sys.argv[1], type=StubsConfig)
    child.begin("stubs", config.parent_pid, "text")
    child.allow_many_files()
    record = Stubs(config).run()
    Path(config.record).write_bytes(msgspec.json.encode(record))
    # Thousands of sockets take long to close, and nobody waits for it.
    sys.stdout.flush()


if __name__ == "__main__":
    main()
