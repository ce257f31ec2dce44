"""The file system type of a path, read from the kernel's list of mounts."""

from pathlib import Path

import pytest

from broker.journal.filesystem import kind_of, refuse_network

MOUNTS = r"""
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda rw
35 22 0:30 / /data rw,relatime shared:4 master:2 - nfs4 server:/export rw
36 35 0:31 / /data/my\040disk rw - xfs /dev/vdb rw
37 22 0:32 / /over rw - ext4 /dev/vdc rw
38 22 0:33 / /over rw - tmpfs tmpfs rw
""".strip()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/database", "ext4"),
        ("/data", "nfs4"),
        ("/data/state", "nfs4"),
        ("/data/my disk/state", "xfs"),
        ("/over/state", "tmpfs"),
    ],
)
def test_the_deepest_and_latest_mount_determines_the_file_system(path: str, kind: str) -> None:
    assert kind_of(Path(path), MOUNTS) == kind


def test_a_local_folder_is_accepted(tmp_path: Path) -> None:
    refuse_network(tmp_path)
