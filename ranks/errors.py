"""Exceptions of the ranks."""

from broker.wire.errors import ErrorCode


class RankError(Exception):
    """Base of every exception of the ranks."""


class DeviceError(RankError):
    """Raised when the requested device is missing, or does not work."""


class UnfitMemoryError(DeviceError):
    """Raised when a model's weights need more memory than there is; no restart can help."""


class ModelFolderError(RankError):
    """Raised when a folder is not a usable model; the message says what is wrong and what to do."""


class MissingModelError(ModelFolderError):
    """Raised when there is no model yet; it may appear, such as when a file system is mounted."""


class JobError(RankError):
    """Raised when a job fails but the group is intact and can run the next job.

    Args:
        code: Kind of failure.
        reason: Text for the client, without internals.
    """

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class RunInterrupted(RankError):
    """Raised on every rank at the same boundary when a run ends early."""


class RunCancelled(RunInterrupted):
    """Raised when the client has cancelled the job."""


class RunPreempted(RunInterrupted):
    """Raised when a more urgent job needs the group; the job is resumed later."""


class GroupStopping(RunInterrupted):
    """Raised when the group has been asked to stop."""


class PeerFailed(RunInterrupted):
    """Raised when another rank reported a failure at this boundary.

    Args:
        code: The failure that the other rank reported.
    """

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(f"another rank failed: {code.value}")
        self.code = code


class LoraFileError(ModelFolderError):
    """Raised when a file is no LoRA that the model can take."""
