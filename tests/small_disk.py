"""A disk so small that a test can fill it: a file system in memory, which only root can mount."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path, num_kib: int) -> Iterator[Path]:
    """Mount a small disk on a folder; skip the test if that is not possible."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None:
        pytest.skip("there is no mount command")
    folder.mkdir(exist_ok=True)
    command = [mount, "-t", "tmpfs", "-o", f"size={num_kib}k", "tmpfs", str(folder)]
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
