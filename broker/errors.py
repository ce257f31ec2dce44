"""What can go wrong in the broker."""


class BrokerError(Exception):
    """Base of every error of the broker."""


class IllegalMoveError(BrokerError):
    """Raised when a job is to enter a state that its present one does not lead to."""


class JournalError(BrokerError):
    """Raised when the journal cannot be opened or trusted; the message says what to do."""


class JournalFullError(BrokerError):
    """Raised when the disk has no room for a transaction, which then has not happened."""


class BackupError(BrokerError):
    """Raised when a copy of the journal cannot be written; the journal itself is well."""


class StateDirInUseError(BrokerError):
    """Raised when another broker holds the state directory."""


class UnfitStateDirError(BrokerError):
    """Raised when the state directory lies where its locks and syncs cannot be trusted."""
