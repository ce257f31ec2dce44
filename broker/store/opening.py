"""From the name of a place to the store that is there."""

from pathlib import Path

from broker.store.bucket import ObjectStore
from broker.store.folder import FolderStore
from broker.store.store import Store, is_object_place


def open_store(place: str, work_dir: str | None = None) -> Store:
    """Return the store at a place; nothing is asked of it yet.

    Args:
        place: A folder, or `s3://BUCKET/PREFIX`.
        work_dir: A folder of this process alone for files on their way; a folder needs none.

    Raises:
        StoreSetupError: If it is no such place, or the library for it is not installed.
    """
    if not is_object_place(place):
        return FolderStore(Path(place))
    return ObjectStore(place, None if work_dir is None else Path(work_dir))
