"""The files of jobs under the state directory: what is there, and what has to go."""

import fcntl
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from broker.errors import StateDirInUseError
from broker.filesystem import refuse_network
from broker.job import JobState
from broker.record import Job

logger = logging.getLogger(__name__)


class StateDir:
    """The folders that the broker keeps in order, locked against a second broker.

    Args:
        path: Holds the journal.
        files: Holds what other machines may share; None is the same folder.

    The lock comes before everything else: binding an `ipc://` address would silently take it away
    from a broker that runs.

    Raises:
        StateDirInUseError: If another broker holds the lock.
        UnfitStateDirError: If the directory lies on a network file system.
    """

    def __init__(self, path: Path, files: Path | None = None) -> None:
        self.journal = path / "jobs.sqlite3"
        files = files or path
        self._inputs = files / "inputs"
        self._videos = files / "videos"
        self._partial = self._videos / ".partial"
        self._checkpoints = files / "checkpoints"
        for folder in (path, self._inputs, self._videos, self._partial, self._checkpoints):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        refuse_network(path)
        # Held until the process ends, however it ends.
        self._lock = (path / "broker.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise StateDirInUseError(f"another broker uses the state directory {path}") from error

    def close(self) -> None:
        """Give the lock back."""
        self._lock.close()

    def has_input(self, image: str) -> bool:
        """Whether an image is stored."""
        return (self._inputs / image).is_file()

    def has_probe(self, name: str) -> bool:
        """Whether a joining machine, where it writes videos, writes into this folder."""
        return (self._partial / name).is_file()

    def remove_job(self, job_id: str) -> None:
        """Remove what belongs to a job alone."""
        for folder in (self._videos, self._partial, self._checkpoints):
            _remove(_find(folder, f"{job_id}*"))

    def remove_input(self, image: str) -> None:
        """Remove an image that no job uses."""
        _remove([self._inputs / image])

    def remove_video(self, job_id: str) -> None:
        """Remove the video of a job that did not succeed, and the stills from it."""
        _remove(_find(self._videos, f"{job_id}.*"))

    def sweep(self, jobs: Iterable[Job]) -> None:
        """Remove every file that belongs to no job, as after a crash between two steps."""
        images, videos, runs, unfinished = set(), set(), set(), set()
        for job in jobs:
            images.add(job.image)
            if not job.state.is_terminal:
                unfinished.add(job.job_id)
            if job.state not in (JobState.FAILED, JobState.CANCELLED):
                # That of a running job may be whole already, and its report on the way.
                videos.add(job.job_id)
            if job.lease is not None:
                runs.add(f"{job.job_id}.{job.attempt}")
        _keep(self._inputs, lambda name: name in images)
        _keep(self._videos, lambda name: name.split(".")[0] in videos)
        _keep(self._partial, lambda name: ".".join(name.split(".")[:2]) in runs)
        _keep(self._checkpoints, lambda name: name.split(".")[0] in unfinished)


def _keep(folder: Path, wanted: Callable[[str], bool]) -> None:
    orphans = [path for path in folder.iterdir() if path.is_file() and not wanted(path.name)]
    if orphans:
        logger.info("removing %d files from %s that belong to no job", len(orphans), folder)
        _remove(orphans)


def _find(folder: Path, pattern: str) -> list[Path]:
    try:
        return list(folder.glob(pattern))
    except OSError as error:  # as when no more files can be opened
        logger.warning("cannot look into %s: %s", folder, error)
        return []


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            # What stays now is swept at the next start.
            logger.warning("cannot remove %s: %s", path, error)
