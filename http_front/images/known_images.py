"""Remembers stored images, so that many jobs with one image decode it only once."""

from collections import OrderedDict

from http_front.images.decode import StoredImage

MAX_KNOWN = 10_000


class KnownImages:
    """Maps the hash of an uploaded image to its stored file; keeps the latest ones.

    Each owner has its own entries. Otherwise a fast submit would reveal that another owner had
    submitted the same image.
    """

    def __init__(self) -> None:
        self._stored: OrderedDict[tuple[str | None, bytes], StoredImage] = OrderedDict()

    def find(self, owner: str | None, digest: bytes) -> StoredImage | None:
        """Return the stored image, which may have been removed in the meantime."""
        image = self._stored.get((owner, digest))
        if image is not None:
            self._stored.move_to_end((owner, digest))
        return image

    def keep(self, owner: str | None, digest: bytes, image: StoredImage) -> None:
        self._stored[owner, digest] = image
        self._stored.move_to_end((owner, digest))
        if len(self._stored) > MAX_KNOWN:
            self._stored.popitem(last=False)
