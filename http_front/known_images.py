"""Pictures that were stored before: who tries many prompts on one has it decoded once."""

from collections import OrderedDict

from broker.store import INPUTS
from http_front.stored_files import StoredFiles

MAX_KNOWN = 10_000


class KnownImages:
    """Which stored image the bytes of a picture have become, the latest ones.

    Owners share nothing: how long a submit takes must not tell what others have submitted.

    Args:
        files: Where stored images are until no job needs them any more.
    """

    def __init__(self, files: StoredFiles) -> None:
        self._files = files
        self._names: OrderedDict[tuple[str | None, bytes], str] = OrderedDict()

    async def find(self, owner: str | None, digest: bytes) -> str | None:
        """Return the name of a stored image; None if it was never stored, or is no more.

        Raises:
            FrontError: If the store cannot be reached.
        """
        name = self._names.get((owner, digest))
        if name is None:
            return None
        if not await self._files.call(lambda: self._files.store.has(f"{INPUTS}/{name}")):
            return None
        self.keep(owner, digest, name)
        return name

    def keep(self, owner: str | None, digest: bytes, name: str) -> None:
        """Remember what a picture has become."""
        self._names[owner, digest] = name
        self._names.move_to_end((owner, digest))
        if len(self._names) > MAX_KNOWN:
            self._names.popitem(last=False)
