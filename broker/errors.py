"""The broker's errors."""


class BrokerError(Exception):
    """Base of every error of the broker."""


class IllegalMoveError(BrokerError):
    """Raised when a job would make a transition that does not exist."""


class JournalError(BrokerError):
    """Raised when the journal cannot be opened or trusted; the message says what to do."""


class UnfitJournalError(JournalError):
    """Raised when the journal is damaged or of a later version: opening it again does not help."""


class JournalRemovedError(JournalError):
    """Raised when the file of the open journal was removed or replaced."""


class JournalFullError(BrokerError):
    """Raised when the disk has no room for a transaction; nothing of it was written."""


class BackupError(BrokerError):
    """Raised when a backup cannot be written; the journal itself is intact."""


class SocketRemovedError(BrokerError):
    """Raised when the file of a socket was removed, so that no new peer could connect."""


class StateDirInUseError(BrokerError):
    """Raised when another broker holds the state directory."""


class UnfitStateDirError(BrokerError):
    """Raised when the state directory lies on a network file system."""


class MissingJournalError(BrokerError):
    """Raised when the journal is new, but files of jobs are there; the message says what to do."""
