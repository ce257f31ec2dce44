"""The file system of the state directory: SQLite's locks and syncs fail on network ones."""

import re
from pathlib import Path

from broker.errors import UnfitStateDirError

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = re.compile(r"nfs\d?|cifs|smb\d?|ceph|glusterfs|lustre|afs|fuse\.(sshfs|s3fs|rclone)")
_OCTAL = re.compile(r"\\([0-7]{3})")


def refuse_network(path: Path) -> None:
    """Check that a folder lies on a local file system, on Linux.

    Raises:
        UnfitStateDirError: If it lies on a network file system.
    """
    if not _MOUNTS.exists():
        return
    kind = kind_of(path.resolve(), _MOUNTS.read_text())
    if _NETWORK.fullmatch(kind):
        raise UnfitStateDirError(
            f"the state directory {path} lies on a network file system ({kind}); "
            "choose one on a local disk"
        )


def kind_of(path: Path, mounts: str) -> str:
    """Return the file system type of a path, given the text of `/proc/self/mountinfo`."""
    kinds: dict[Path, str] = {}
    for line in mounts.splitlines():
        fields = line.split()
        # The number of optional fields before the separator varies.
        point = _OCTAL.sub(lambda found: chr(int(found[1], 8)), fields[4])
        kinds[Path(point)] = fields[fields.index("-") + 1]
    return next((kinds[folder] for folder in (path, *path.parents) if folder in kinds), "unknown")
