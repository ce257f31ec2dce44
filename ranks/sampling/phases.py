"""The phases of a run: where what an earlier step has computed says nothing about the next one."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Phases:
    """Which transformer computes which steps, and where guidance ends.

    Args:
        num_steps: Number of denoising steps.
        boundary: First step of the second transformer; None if the first computes all.
        guidance_end: First step without guidance; None if guidance is on to the end, or off.
    """

    num_steps: int
    boundary: int | None = None
    guidance_end: int | None = None

    @property
    def starts(self) -> tuple[int, ...]:
        """Steps, besides the first, that can reuse nothing of those before them."""
        marks = {self.boundary, self.guidance_end} - {None, 0, self.num_steps}
        return tuple(sorted(step for step in marks if step is not None))

    def is_guided(self, step: int) -> bool:
        return self.guidance_end is None or step < self.guidance_end

    def steps_of_transformer(self, step: int) -> range:
        """Return all the steps that the transformer of a step computes."""
        if self.boundary is None:
            return range(self.num_steps)
        is_second = step >= self.boundary
        return range(self.boundary, self.num_steps) if is_second else range(self.boundary)
