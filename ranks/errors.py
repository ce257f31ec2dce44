"""What the ranks raise."""

from broker.wire.protocol import ErrorCode


class RankError(Exception):
    """Base of every exception of the ranks."""


class DeviceError(RankError):
    """Raised when the device asked for is absent or does not start."""


class JobError(RankError):
    """Raised when a job cannot be done though the group is sound; the group goes on.

    Args:
        code: What kind of failure.
        reason: For the client, without internals.
    """

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class RunLeft(RankError):
    """Raised on every rank at the same boundary when a run ends early."""


class RunCancelled(RunLeft):
    """Raised when the client has cancelled the job."""


class RunPreempted(RunLeft):
    """Raised when a more urgent job needs the group; the run goes on later."""


class GroupStopping(RunLeft):
    """Raised when the group has been asked to stop."""


class PeerFailed(RunLeft):
    """Raised when another rank reported a failure at this boundary.

    Args:
        code: What the other rank reported.
    """

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(f"another rank failed: {code.value}")
        self.code = code
