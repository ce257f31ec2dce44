"""What the dispatcher is told beside the messages on the sockets, and what it asks for."""

import msgspec

from broker.dispatch.job_record import Job
from broker.wire.protocol import (
    CancelJob,
    CancelRun,
    DeleteJob,
    DrainServer,
    FrontReply,
    GroupDrained,
    GroupReport,
    JobView,
    KillGroup,
    Lease,
    OfferJob,
    PreemptRun,
    RemoveExpired,
    RunJob,
    StepDone,
    SubmitJob,
)


class JobStored(msgspec.Struct, frozen=True):
    """The journal holds a submitted job."""

    job_id: str


class JobNotStored(msgspec.Struct, frozen=True):
    """The journal has no room for a submitted job."""

    job_id: str


class GroupsNamed(msgspec.Struct, frozen=True):
    """Every process of any other group has ended before the broker was started."""

    groups: tuple[str, ...]


class WatchersChanged(msgspec.Struct, frozen=True):
    """Somebody has begun to listen to what is published of a job, or nobody listens any more."""

    job_id: str
    watched: bool


FrontEvent = OfferJob | SubmitJob | CancelJob | DeleteJob | RemoveExpired
BrokerEvent = JobStored | JobNotStored | GroupsNamed | WatchersChanged
Event = FrontEvent | DrainServer | BrokerEvent | GroupReport | StepDone


class SaveJob(msgspec.Struct, frozen=True):
    """Write the job to the journal; nothing that follows may leave before it is on disk."""

    job: Job


class AnswerAfter(msgspec.Struct, frozen=True):
    """The request is answered when it is known whether the journal has room for this new job."""

    job_id: str


class DropJob(msgspec.Struct, frozen=True):
    """Remove the row of a job, then its files."""

    job_id: str


class DropInput(msgspec.Struct, frozen=True):
    """Remove an image, unless a job has come to use it meanwhile."""

    image: str


class DropVideo(msgspec.Struct, frozen=True):
    """Remove video and stills of a job that ended otherwise while they were written."""

    job_id: str


class Publish(msgspec.Struct, frozen=True):
    """Tell every subscriber how the job is now."""

    view: JobView


class Reply(msgspec.Struct, frozen=True):
    """Answer the request that was handled."""

    message: FrontReply


class ToGroup(msgspec.Struct, frozen=True):
    """Send a message to rank 0 of a group."""

    group: str
    message: RunJob | CancelRun | PreemptRun


class AskHowItEnded(msgspec.Struct, frozen=True):
    """Have rank 0 repeat how its latest runs ended: it says that it does not run this one."""

    lease: Lease


class ToLauncher(msgspec.Struct, frozen=True):
    """Send a message to the launcher of a group."""

    group: str
    message: KillGroup | GroupDrained


class StopLaunchers(msgspec.Struct, frozen=True):
    """Tell every launcher to stop."""


class ReportDrained(msgspec.Struct, frozen=True):
    """Tell every launcher that asked for it that nothing runs any more."""


Command = (
    SaveJob
    | AnswerAfter
    | DropJob
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
