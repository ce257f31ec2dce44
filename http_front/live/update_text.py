"""The text of a job's latest change, for all clients that watch the job."""

import msgspec

from broker.wire.job import JobSpec
from broker.wire.job_view import JobView
from broker.wire.model_profile import ModelProfile
from http_front.video.job_status import JobUpdate


class UpdateText:
    """Makes the text of a change once: an event reaches all watchers as the same object."""

    def __init__(self) -> None:
        self._job: JobView | None = None
        self._profile: ModelProfile | None = None
        self._text = ""

    def of(self, job: JobView, spec: JobSpec | None, profile: ModelProfile) -> str:
        """Return a change as JSON, with what never changes, which events leave out.

        Args:
            job: The change.
            spec: Of the job.
            profile: Of the job's model.
        """
        if job is not self._job or profile != self._profile:
            update = JobUpdate.of(msgspec.structs.replace(job, spec=spec), profile)
            self._text = msgspec.json.encode(update).decode()
            self._job, self._profile = job, profile
        return self._text
