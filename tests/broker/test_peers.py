"""Who speaks for a group."""

from broker.peers import Peers
from broker.wire.group_reports import GroupStarted, LauncherHere


def test_launchers_that_were_replaced_are_forgotten() -> None:
    """Machines that join and leave for months would fill the memory, and delay a stop."""
    peers = Peers()
    identities = [b"launcher-%d" % number for number in range(100)]
    for epoch, identity in enumerate(identities):
        started = GroupStarted(group="node-g0", epoch=epoch, world_size=8)
        for report in (LauncherHere(), started, LauncherHere()):
            assert peers.admit(identity, report)
    assert peers.launchers() == [identities[-1]]
    assert not any(map(peers.knows, identities[:-1]))
