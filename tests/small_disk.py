"""A disk so small that a test can fill it: a file system in memory, which only root can mount."""

import contextlib
import itertools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path, num_kib: int, num_inodes: int = 0) -> Iterator[Path]:
    """Mount a small disk on a folder; skip the test if that is not possible.

    Args:
        folder: The folder, which is created if it is missing.
        num_kib: Size of the disk.
        num_inodes: Limit of files and folders; 0 for none.
    """
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None:
        pytest.skip("there is no mount command")
    folder.mkdir(exist_ok=True)
    limits = f"size={num_kib}k,nr_inodes={num_inodes}"
    command = [mount, "-t", "tmpfs", "-o", limits, "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a file system needs root")
    try:
        yield folder
    finally:
        subprocess.run([umount, "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill a disk; return the file whose removal frees the space."""
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(512))
    return ballast


def use_up_inodes(folder: Path, num_left: int = 0) -> Path:
    """Create files until so many more can be created; return the folder that holds them."""
    ballast = folder / "files"
    ballast.mkdir()
    names = map(str, itertools.count())
    with contextlib.suppress(OSError):
        for name in names:
            (ballast / name).touch()
    for path in itertools.islice(ballast.iterdir(), num_left):
        path.unlink()
    return ballast
