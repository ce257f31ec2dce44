"""Bodies of requests, which `field_check` makes from input, and of short responses."""

from operator import attrgetter
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from broker.wire.job import JobSpec, JobState, Priority

EXAMPLE_IMAGE = (  # 64x64 pixels of one colour
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAEAAAABAAQAAAACCEkxzAAAAFElEQVR42m"
    "P8zwABTAyjjFEGyQwAzx8Bf7QK4E8AAAAASUVORK5CYII="
)

MAX_LISTED = 100
"""Maximum number of jobs per page of the list."""

CallbackUrl = (
    Annotated[
        str,
        Meta(
            min_length=1,
            max_length=2048,
            description="URL that gets a signed POST when the job ends.",
            extra_json_schema={"pattern": "^https?://"},
        ),
    ]
    | None
)


LastImageUrl = (
    Annotated[
        str,
        Meta(
            min_length=1,
            description="URL of the video's last frame, for models that take one; otherwise as "
            "`image_url`.",
            extra_json_schema={"pattern": "^(https?://|data:image/)"},
        ),
    ]
    | None
)

_SPEC = attrgetter(*JobSpec.__struct_fields__)


class SubmitByFile(JobSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A video to make from an uploaded image."""

    last_image_url: LastImageUrl = None
    callback_url: CallbackUrl = None
    priority: Priority = 0

    @property
    def spec(self) -> JobSpec:
        return JobSpec(**dict(zip(JobSpec.__struct_fields__, _SPEC(self), strict=True)))


class SubmitByUrl(SubmitByFile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A video to make from an image at a URL."""

    image_url: Annotated[
        str,
        Meta(
            min_length=1,
            description="Image URL: http or https with at most 2048 characters, or a `data:` URL. "
            "JPEG, PNG, WebP, GIF (first frame) or AVIF; 64 to 8192 pixels per side.",
            extra_json_schema={"pattern": "^(https?://|data:image/)", "examples": [EXAMPLE_IMAGE]},
        ),
    ]


class JobRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The id of a job."""

    # Clients use this spelling.
    requestId: Annotated[str, Meta(description="The id from the response to the submit request.")]


class KeepVideo(JobRef, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A video to keep, or to let expire again."""

    keep: Annotated[
        bool, Meta(description="false lets it expire again, as if the job ended now.")
    ] = True


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a video is kept now."""

    kept: bool
    expires_at: float | None
    """When the job and its files will be removed; null while it is kept."""


class Submitted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The job is stored and will run."""

    requestId: str
    notice: Annotated[
        str | None,
        Meta(
            description="What to know of the video, such as that it is longer than those that "
            "the model was trained with; left out if there is nothing."
        ),
    ] = None


class Cancelled(msgspec.Struct, frozen=True, kw_only=True):
    """The job has ended; its status is final."""

    status: JobState


class WebhookSecret(msgspec.Struct, frozen=True, kw_only=True):
    """The secret that verifies the signatures of the caller's callbacks."""

    secret: str


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    """The job and its files are deleted."""

    deleted: Literal[True] = True
