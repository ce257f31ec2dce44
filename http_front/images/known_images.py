"""Remembers stored images, so that many jobs with one image decode it only once."""

from collections import OrderedDict

MAX_KNOWN = 10_000


class KnownImages:
    """Maps the hash of an uploaded image to the name of its stored file; keeps the latest ones.

    Each owner has its own entries. Otherwise a fast submit would reveal that another owner had
    submitted the same image.
    """

    def __init__(self) -> None:
        self._names: OrderedDict[tuple[str | None, bytes], str] = OrderedDict()

    def find(self, owner: str | None, digest: bytes) -> str | None:
        """Return the name of the stored image, which may have been removed in the meantime."""
        name = self._names.get((owner, digest))
        if name is not None:
            self._names.move_to_end((owner, digest))
        return name

    def keep(self, owner: str | None, digest: bytes, name: str) -> None:
        self._names[owner, digest] = name
        self._names.move_to_end((owner, digest))
        if len(self._names) > MAX_KNOWN:
            self._names.popitem(last=False)
