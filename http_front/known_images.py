"""Pictures that were stored before: who tries many prompts on one has it decoded once."""

from collections import OrderedDict
from pathlib import Path

MAX_KNOWN = 10_000


class KnownImages:
    """Which stored image the bytes of a picture have become, the latest ones.

    Owners share nothing: how long a submit takes must not tell what others have submitted.

    Args:
        inputs_dir: Where stored images are until no job needs them any more.
    """

    def __init__(self, inputs_dir: Path) -> None:
        self._inputs_dir = inputs_dir
        self._names: OrderedDict[tuple[str | None, bytes], str] = OrderedDict()

    def find(self, owner: str | None, digest: bytes) -> str | None:
        """Return the name of a stored image; None if it was never stored, or is no more."""
        name = self._names.get((owner, digest))
        if name is None or not (self._inputs_dir / name).exists():
            return None
        self._names.move_to_end((owner, digest))
        return name

    def keep(self, owner: str | None, digest: bytes, name: str) -> None:
        """Remember what a picture has become."""
        self._names[owner, digest] = name
        self._names.move_to_end((owner, digest))
        if len(self._names) > MAX_KNOWN:
            self._names.popitem(last=False)
