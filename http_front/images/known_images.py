"""Pictures that were stored before: who tries many prompts on one has it decoded once."""

from collections import OrderedDict

MAX_KNOWN = 10_000


class KnownImages:
    """Which stored image the bytes of a picture have become, the latest ones.

    Owners share nothing: how long a submit takes must not tell what others have submitted.
    """

    def __init__(self) -> None:
        self._names: OrderedDict[tuple[str | None, bytes], str] = OrderedDict()

    def find(self, owner: str | None, digest: bytes) -> str | None:
        """Return the name of an image that has been stored, and may have been removed since."""
        name = self._names.get((owner, digest))
        if name is not None:
            self._names.move_to_end((owner, digest))
        return name

    def keep(self, owner: str | None, digest: bytes, name: str) -> None:
        """Remember what a picture has become."""
        self._names[owner, digest] = name
        self._names.move_to_end((owner, digest))
        if len(self._names) > MAX_KNOWN:
            self._names.popitem(last=False)
