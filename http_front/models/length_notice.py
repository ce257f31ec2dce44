"""What to say of a video that is longer than those that its model was trained with."""

from broker.wire.job import JobSpec
from broker.wire.model_profile import ModelProfile


def length_notice(spec: JobSpec, profile: ModelProfile) -> str | None:
    """Return the notice; None if the video is not longer."""
    if spec.num_frames <= profile.trained_frames:
        return None
    return (
        f"num_frames is {spec.num_frames}; {profile.name} was trained with "
        f"{profile.trained_frames}: longer videos may flicker or repeat themselves"
    )
