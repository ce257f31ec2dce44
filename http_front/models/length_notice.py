"""What to say of a video or a prompt that is longer than what its model was made for."""

from broker.wire.job import MAX_PROMPT_TOKENS, JobSpec
from broker.wire.model_profile import ModelProfile


def notice_of(spec: JobSpec, profile: ModelProfile, prompt_tokens: int | None = None) -> str | None:
    """Return the notice; None if there is nothing to say.

    Args:
        spec: The job.
        profile: Its model's.
        prompt_tokens: Length of its prompt, as its model counts it, as soon as that is known.
    """
    notices = []
    if spec.num_frames > profile.trained_frames:
        notices.append(
            f"num_frames is {spec.num_frames}; {profile.name} was trained with "
            f"{profile.trained_frames}: longer videos may flicker or repeat themselves"
        )
    if prompt_tokens is not None and prompt_tokens > MAX_PROMPT_TOKENS:
        notices.append(
            f"the prompt has {prompt_tokens} tokens; {profile.name} reads the first "
            f"{MAX_PROMPT_TOKENS} and leaves out the rest"
        )
    return ". ".join(notices) or None
