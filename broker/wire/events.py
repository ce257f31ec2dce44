"""What the broker publishes to fronts, on the `events` socket."""

from broker.wire.codec import Codec
from broker.wire.job_view import JobView
from broker.wire.rank_messages import JobPreview

job_events: Codec[JobView] = Codec(JobView)


job_previews: Codec[JobPreview] = Codec(JobPreview)


def preview_topic(job_id: str) -> bytes:
    """Return the topic of a job's previews, which subscribers to its changes do not receive."""
    return f"preview.{job_id}".encode()
