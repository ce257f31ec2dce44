"""Layout of a job: the guidance branch and the sequence shard of every rank."""

from dataclasses import dataclass


def grid_shape(world_size: int) -> tuple[int, int]:
    """Return the rows and columns of patches of a split VAE."""
    num_cols = 2 if world_size >= 8 and world_size % 2 == 0 else 1
    return world_size // num_cols, num_cols


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the ranks share a job: rank = (replica * cfg_size + branch) * ulysses_size + shard.

    Ranks beyond `cfg_size * ulysses_size` are replicas. They repeat the same work, so that every
    rank takes part in every step and holds every result.

    Args:
        world_size: Number of ranks.
        cfg_size: 2 if two groups of ranks compute one guidance branch each, else 1.
        ulysses_size: Number of ranks that share a sequence.

    Raises:
        ValueError: If `cfg_size * ulysses_size` does not divide `world_size`.
    """

    world_size: int
    cfg_size: int
    ulysses_size: int

    def __post_init__(self) -> None:
        if self.world_size % (self.cfg_size * self.ulysses_size):
            raise ValueError(
                f"cfg_size {self.cfg_size} times ulysses_size {self.ulysses_size} does not divide "
                f"the {self.world_size} ranks"
            )

    def branch(self, rank: int) -> int:
        """Return the guidance branch of a rank: 0 is conditional, 1 unconditional."""
        return rank // self.ulysses_size % self.cfg_size

    def shard(self, rank: int) -> int:
        return rank % self.ulysses_size

    @property
    def ulysses_groups(self) -> list[list[int]]:
        """Groups of ranks that share a sequence; their ranks are consecutive."""
        size = self.ulysses_size
        return [list(range(first, first + size)) for first in range(0, self.world_size, size)]

    @property
    def cfg_groups(self) -> list[list[int]]:
        """Groups of ranks that hold the same shard of both branches, conditional first."""
        stride, size = self.ulysses_size, self.ulysses_size * self.cfg_size
        return [
            list(range(first, first + size, stride))
            for replica in range(0, self.world_size, size)
            for first in range(replica, replica + stride)
        ]


def split_evenly(length: int, num_parts: int) -> list[int]:
    share, remainder = divmod(length, num_parts)
    return [share + (part < remainder) for part in range(num_parts)]
