"""Tells used-up inodes from a full disk: the error is the same, but `df` shows free space."""

import os
from pathlib import Path


def inode_note(path: Path) -> str:
    """Return what to add to a file error at a path; empty if its file system has free inodes."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    room = os.statvfs(there)
    # A file system without a fixed number of inodes reports none at all.
    if room.f_files and not room.f_favail:
        return "; its file system has no free inodes (see `df -i`): remove files"
    return ""
