"""What a step-distilled model takes.

Its weights have the names and shapes of the model it is made from, so the operator has to say that
it is one.
"""

import hashlib

from msgspec import structs

from broker.wire.model_profile import Family, ModelProfile
from ranks.errors import ModelFolderError

_FAMILIES: tuple[Family, ...] = ("wan2.1-i2v", "wan2.2-i2v-a14b")
"""Those whose distilled models are published, with a known schedule."""


def distilled(profile: ModelProfile) -> ModelProfile:
    """Return the profile of a distilled model, given that of the model it is made from.

    Raises:
        ModelFolderError: If no schedule is known for distilled models of its family.

    Source:
        LightX2V `configs/distill/`: 4 steps, no guidance, Euler, shift 5.
    """
    if profile.family not in _FAMILIES:
        raise ModelFolderError(
            f"--distilled names a model of the family {profile.family}; only those of "
            f"{' and '.join(_FAMILIES)} have a known schedule; leave it out"
        )
    return structs.replace(
        profile,
        # A job begun with other steps or other weights must not be resumed.
        content_hash=hashlib.sha256(f"distilled {profile.content_hash}".encode()).hexdigest(),
        is_distilled=True,
        has_second_guidance=False,
        min_steps=1,
        max_steps=8,
        infer_steps=4,
        max_guidance_scale=1.0,
        guidance_scale=1.0,
        guidance_scale_2=None,
        sample_shift=5.0,
        solvers=("euler",),
        sample_solver="euler",
    )
