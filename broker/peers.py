"""Which peer on the `groups` socket speaks for which group."""

import logging

from broker.wire.group_reports import (
    DrainBroker,
    DrainGroup,
    GroupGone,
    GroupLost,
    GroupReady,
    GroupStarted,
    LauncherHere,
    PeerReport,
)
from broker.wire.job_view import Lease

logger = logging.getLogger(__name__)


class Peers:
    """The identities of rank 0 and of the launcher of each group, as they registered."""

    def __init__(self) -> None:
        self._ranks: dict[str, tuple[int, bytes]] = {}
        self._launchers: dict[str, tuple[int, bytes]] = {}
        self._idle: set[bytes] = set()
        self._known: set[bytes] = set()
        self._drainers: set[bytes] = set()

    def rank(self, group: str) -> bytes | None:
        return self._ranks.get(group, (0, None))[1]

    def holder(self, lease: Lease) -> bytes | None:
        """Return the identity of rank 0 in the life of a group that holds a lease.

        None if the next life has registered, to which earlier decisions do not apply.
        """
        epoch, identity = self._ranks.get(lease.group, (lease.epoch, None))
        return identity if epoch == lease.epoch else None

    def launcher(self, group: str) -> bytes | None:
        return self._launchers.get(group, (0, None))[1]

    def launchers(self) -> list[bytes]:
        return sorted({identity for _, identity in self._launchers.values()} | self._idle)

    def drainers(self) -> list[bytes]:
        return sorted(self._drainers)

    def knows(self, identity: bytes) -> bool:
        return identity in self._known

    def admit(self, identity: bytes, report: PeerReport) -> bool:
        """Return whether a peer may send a report; a registration makes it the only one.

        Reports of unregistered peers pass: the broker may have restarted, and the lease in a report
        identifies it better than the identity does.
        """
        match report:
            case LauncherHere():
                self._idle.add(identity)
                self._known.add(identity)
                return True
            case GroupStarted():
                return self._claim(self._launchers, identity, report.group, report.epoch)
            case GroupReady():
                return self._claim(self._ranks, identity, report.group, report.epoch)
            case GroupGone() | DrainGroup():
                return self.launcher(report.group) in (None, identity)
            case GroupLost():
                # Another machine may begin its next life, with a clock that is behind.
                self._launchers.pop(report.group, None)
                self._ranks.pop(report.group, None)
                return True
            case DrainBroker():
                self._drainers.add(identity)
                self._known.add(identity)
                return True
            case _:
                return self.rank(report.lease.group) in (None, identity)

    def _claim(
        self, owners: dict[str, tuple[int, bytes]], identity: bytes, group: str, epoch: int
    ) -> bool:
        owner_epoch, owner = owners.get(group, (epoch, identity))
        if epoch < owner_epoch or (epoch == owner_epoch and owner != identity):
            return False
        if owner != identity:
            # No other process ever has its identity.
            self._known.discard(owner)
            self._idle.discard(owner)
        owners[group] = (epoch, identity)
        self._known.add(identity)
        return True
