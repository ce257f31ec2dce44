"""What enters the dispatcher besides the messages of peers, and the commands that leave it."""

from typing import NamedTuple

import msgspec

from broker.dispatch.job_record import Job
from broker.wire.group_commands import CancelRun, GroupDrained, KillGroup, PreemptRun, RunJob
from broker.wire.group_reports import GroupReport
from broker.wire.job_view import JobView, Lease
from broker.wire.model_profile import ModelProfile
from broker.wire.rank_messages import StepDone
from broker.wire.replies import FrontReply, Refused
from broker.wire.requests import (
    CancelJob,
    DeleteJob,
    DrainServer,
    KeepJob,
    OfferJob,
    RemoveExpired,
    SubmitJob,
)


class Client(NamedTuple):
    """The address of a reply; the dispatcher passes it on unread."""

    identity: bytes
    correlation: bytes


class JobAdmitted(msgspec.Struct, frozen=True):
    """A new job is in the journal."""

    job_id: str


class JobRefused(msgspec.Struct, frozen=True):
    """A new job is not in the journal: its image is gone, or the disk is full."""

    job_id: str
    refusal: Refused


class GroupsNamed(msgspec.Struct, frozen=True):
    """Only these groups will run: the processes of all others ended before the broker started."""

    groups: tuple[str, ...]


class WatchersChanged(msgspec.Struct, frozen=True):
    """A job has got its first subscriber, or lost its last one."""

    job_id: str
    watched: bool


class SpaceLow(msgspec.Struct, frozen=True):
    """The disk of the videos has less free space than it should."""


FrontEvent = OfferJob | SubmitJob | CancelJob | DeleteJob | KeepJob | RemoveExpired
Admission = JobAdmitted | JobRefused
Event = (
    FrontEvent
    | DrainServer
    | Admission
    | GroupsNamed
    | WatchersChanged
    | SpaceLow
    | GroupReport
    | StepDone
)


class AdmitJob(msgspec.Struct, frozen=True):
    """Write a new job to the journal, in a transaction of new jobs only.

    `JobAdmitted` or `JobRefused` tells the dispatcher how that went. A full disk refuses new jobs
    and nothing else.
    """

    job: Job


class SaveJob(msgspec.Struct, frozen=True):
    """Write a job to the journal; no later command is carried out before it is on disk."""

    job: Job


class DropJob(msgspec.Struct, frozen=True):
    """Remove a job's row, then its files."""

    job_id: str


class SaveKept(msgspec.Struct, frozen=True):
    """Write to the journal that a job is kept, or since when it is not any more."""

    number: int
    """Of the job."""
    let_go_at: float | None


class SaveModel(msgspec.Struct, frozen=True):
    """Write a model's profile to the journal, as `SaveJob` writes a job."""

    profile: ModelProfile


class DropModel(msgspec.Struct, frozen=True):
    """Remove a model's profile from the journal."""

    name: str


class DropInput(msgspec.Struct, frozen=True):
    """Remove an image unless a job uses it by then."""

    image: str


class DropVideo(msgspec.Struct, frozen=True):
    """Remove the video and stills of a job that was cancelled or failed while they were saved."""

    job_id: str


class Publish(msgspec.Struct, frozen=True):
    """Publish a job's new state to its subscribers."""

    view: JobView


class Reply(msgspec.Struct, frozen=True):
    """Answer a request."""

    client: Client
    message: FrontReply


class ToGroup(msgspec.Struct, frozen=True):
    """Send a command to rank 0 of a group."""

    group: str
    message: RunJob | CancelRun | PreemptRun


class AskHowItEnded(msgspec.Struct, frozen=True):
    """Have rank 0 repeat its last reports: it no longer lists the attempt of this lease."""

    lease: Lease


class ToLauncher(msgspec.Struct, frozen=True):
    """Send a command to the launcher of a group."""

    group: str
    message: KillGroup | GroupDrained


class StopLaunchers(msgspec.Struct, frozen=True):
    """Have every launcher stop."""


class ReportDrained(msgspec.Struct, frozen=True):
    """Report to every launcher that asked for it that nothing runs any more."""


Command = (
    AdmitJob
    | SaveJob
    | DropJob
    | SaveKept
    | SaveModel
    | DropModel
    | DropInput
    | DropVideo
    | Publish
    | Reply
    | ToGroup
    | AskHowItEnded
    | ToLauncher
    | StopLaunchers
    | ReportDrained
)
