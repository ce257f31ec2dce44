"""What the rest of the ranks asks a family of models, and so knows no model by name.

Shapes: B batch (always 1), C channels, T frames, H height, W width of latents; S tokens of the
whole sequence, R timesteps.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from broker.wire.job import JobSpec
from ranks.model.vae import GivenClip
from ranks.sampling.skip_lists import MagCacheNumbers, TeaCacheNumbers


class ModelFamily(ABC):
    """An architecture, and how a job becomes its inputs.

    What is not abstract here is the answer of a model with one transformer, which sees all tokens
    at one timestep and makes every frame itself.
    """

    num_embedded_images: ClassVar[int]
    """Images that the transformer sees through the image encoder; 0 if the model has none."""

    @abstractmethod
    def clip(self, first: Tensor, last: Tensor | None, num_frames: int) -> GivenClip:
        """Return the clip that the VAE encodes for the condition.

        Args:
            first: First frame of the video, `[B, 3, H, W]` in pixels, from -1 to 1.
            last: Last frame, if the job gives one.
            num_frames: Frames of the video, of the form 4n + 1.
        """

    @abstractmethod
    def condition(self, encoded: Tensor, *, has_last: bool) -> Tensor:
        """Return what stays the same in every step, float32, given the encoded clip of `clip`."""

    @abstractmethod
    def model_input(self, latents: Tensor, condition: Tensor) -> Tensor:
        """Return the transformer's input `[B, C, T, H, W]`, all on the device of the condition."""

    def timesteps(self, timestep: Tensor) -> Tensor:
        """Return the timesteps `[R]` of the tokens, given the solver's, a scalar."""
        return timestep.unsqueeze(0)

    def timestep_rows(self, num_frames: int, num_tokens: int) -> Tensor | None:
        """Return which of the timesteps each token has, `[S]`; None if there is only one.

        Args:
            num_frames: Latent frames, which follow each other in the sequence.
            num_tokens: Tokens of the whole sequence.
        """
        return None

    def keep_given(self, latents: Tensor, condition: Tensor) -> Tensor:
        """Return latents in which the frames that the condition fixes have their given values."""
        return latents

    def expert(self, timestep: Tensor) -> int:
        """Return the index of the transformer that computes a step."""
        return 0

    def guidance_scale(self, spec: JobSpec, expert: int) -> float:
        return spec.guidance_scale

    def magcache_numbers(self, spec: JobSpec) -> MagCacheNumbers | None:
        """Return what MagCache needs; None if no numbers are published."""
        return None

    def teacache_numbers(self, spec: JobSpec) -> TeaCacheNumbers | None:
        """Return what TeaCache needs; None if no numbers are published."""
        return None
