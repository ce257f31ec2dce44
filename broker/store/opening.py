"""Opens a store by its name."""

from pathlib import Path

from broker.store.bucket import ObjectStore
from broker.store.folder import FolderStore
from broker.store.store import Store, is_object_place


def open_store(place: str, work_dir: str | None = None) -> Store:
    """Return a store, without contacting it.

    Args:
        place: A folder, or `s3://BUCKET/PREFIX`.
        work_dir: A local folder of this process alone, for files from and to an object store.

    Raises:
        StoreSetupError: If the name is invalid, or the library for it is not installed.
    """
    if not is_object_place(place):
        return FolderStore(Path(place))
    return ObjectStore(place, None if work_dir is None else Path(work_dir))
