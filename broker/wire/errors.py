"""What can be wrong with a request, a job or a message."""

from enum import Enum


class ErrorCode(Enum):
    """Why something was refused or failed; the values are those that clients see."""

    INVALID_BODY = "invalid_body"  # neither JSON nor a form, or of the wrong shape
    INVALID_FIELD = "invalid_field"  # unknown name, wrong type, out of range
    UNSUPPORTED_LAYOUT = "unsupported_layout"  # no group can run the job
    UNKNOWN_MODEL = "unknown_model"  # the server serves no model of this name
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    BODY_TOO_LARGE = "body_too_large"
    REQUEST_TIMEOUT = "request_timeout"
    IMAGE_URL_FORBIDDEN = "image_url_forbidden"  # scheme, port, address, characters
    IMAGE_UNAVAILABLE = "image_unavailable"  # the other server did not deliver it
    IMAGE_REMOVED = "image_removed"  # the stored image is gone: send it again
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_INVALID = "image_invalid"  # not a usable picture
    IDEMPOTENCY_KEY_REUSE = "idempotency_key_reuse"  # the same key with another request
    JOB_NOT_FOUND = "job_not_found"  # or another key's job, which looks the same
    JOB_EXPIRED = "job_expired"  # the server has removed it, by its age or for room
    JOB_FINISHED = "job_finished"  # too late to cancel
    KEEP_LIMIT = "keep_limit"  # the owner keeps as many videos as it may
    QUEUE_FULL = "queue_full"
    RATE_LIMITED = "rate_limited"  # too many requests with one key
    STORAGE_FULL = "storage_full"
    UNAVAILABLE = "unavailable"  # the broker does not reply, or drains
    NOT_FOUND = "not_found"  # no such route or file
    METHOD_NOT_ALLOWED = "method_not_allowed"
    UNAUTHORIZED = "unauthorized"  # no API key, or a wrong one
    FORBIDDEN = "forbidden"  # wrong Host or Origin, or a key that may not do this
    WAIT_TIMEOUT = "wait_timeout"  # the job that a client waits for takes too long
    INTERNAL = "internal"  # a bug; the log says more
    RUN_FAILED = "run_failed"  # the ranks failed during the attempt
    OUT_OF_MEMORY = "out_of_memory"  # of an accelerator
    NOT_FINITE = "not_finite"  # the model computed NaN or infinity
    LORA_INVALID = "lora_invalid"  # a LoRA has changed since, or cannot be merged
    SAVE_FAILED = "save_failed"  # the video could not be written
    OTHER_VERSION = "other_version"  # the journal holds what only another version can read
    GROUP_LOST = "group_lost"  # its group died in every attempt


class ResultWarning(Enum):
    """What looks wrong with a finished video; the values are those that clients see."""

    SINGLE_COLOUR = "single_colour"  # most frames are black or of another single colour


class ProtocolError(Exception):
    """Raised when a message cannot be decoded."""


class BindError(OSError):
    """Raised when a socket cannot be bound; the message names its address."""
