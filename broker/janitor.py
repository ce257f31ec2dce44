"""Keeps the store in order: the files that jobs need are there, and no others."""

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from broker.dispatch.dispatcher import Dispatcher
from broker.dispatch.job_record import Job
from broker.errors import JournalError, MissingJournalError
from broker.store.store import (
    CHECKPOINTS,
    FOLDERS,
    INPUTS,
    PARTIAL,
    POSTER,
    SPRITES,
    VIDEO,
    VIDEOS,
    Store,
    StoreError,
    checkpoint_name,
    is_own,
)
from broker.wire.errors import ErrorCode
from broker.wire.job import JobState
from broker.wire.replies import Refused

logger = logging.getLogger(__name__)

CHECK_LIMIT_S = 3.0
"""Less than fronts wait for a reply."""
RETRY_S = 30.0
LOOK_EVERY_S = 2.0
"""Between two looks whether the folders of a local store are there."""
SETTLE_S = 60.0
"""Between the two looks at an object store for files without a job; the second one counts."""
_SUFFIXES = (VIDEO, POSTER, SPRITES)
_NO_STORE = Refused(
    code=ErrorCode.UNAVAILABLE,
    message="the server's file store cannot be reached; nothing was accepted",
    retry_after_s=30,
)

Result = TypeVar("Result")


class Janitor:
    """Changes the store in a thread of its own, one change after the other.

    So an image that was found is not removed by an earlier decision. A folder is changed at once;
    a change that an object store refuses is tried again in the background.

    Args:
        store: Of all files.
        dispatcher: Knows the jobs and the images they use.
        min_free_bytes: Of free space that the disk of a local store should have.
    """

    def __init__(self, store: Store, dispatcher: Dispatcher, min_free_bytes: int = 0) -> None:
        self.is_local = store.is_local
        """Whether `refusals` answers at once."""
        self.is_space_low = False
        """Whether the disk of a local store has less free space than it should."""
        self._min_free_bytes = min_free_bytes
        self._store = store
        self._dispatcher = dispatcher
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="files")
        self._removed_jobs: set[str] = set()
        self._due: set[str] = set()
        self._is_due = asyncio.Event()

    def begin(self) -> None:
        if self.is_local:
            self._store.prepare()
            # A crash leaves files without a job.
            orphans = self._orphans(_all_names(self._store))
            self._store.delete(orphans)
            if orphans:
                logger.info("removed %d files that belong to no job", len(orphans))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            if not self.is_local:
                tasks.create_task(self._insist(self._sweep))
            else:
                tasks.create_task(self._keep_folders())
            tasks.create_task(self._remove_on())

    def close(self) -> None:
        # Not waited for: the thread may hang with the store for a while.
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def refusals(self, jobs: Sequence[Job]) -> dict[str, Refused]:
        """Return the refusals, by job id, of new jobs whose image is not in the store."""
        images = {image for job in jobs for image in job.images}
        try:
            async with asyncio.timeout(CHECK_LIMIT_S):
                missing = await self._in_thread(lambda: self._missing(images))
        except (StoreError, TimeoutError) as error:
            logger.error("refused %d jobs: the store cannot be reached: %s", len(jobs), error)
            return {job.job_id: _NO_STORE for job in jobs}
        return {job.job_id: _no_input(job, missing) for job in jobs if missing & {*job.images}}

    async def has_probe(self, name: str) -> bool:
        """Whether a joining machine writes its videos into this store."""
        try:
            async with asyncio.timeout(CHECK_LIMIT_S):
                return await self._in_thread(lambda: self._store.has(f"{PARTIAL}/{name}"))
        except (StoreError, TimeoutError) as error:
            logger.error("cannot look for the file of a joining machine: %s", error)
            return False

    async def remove_job(self, job_id: str) -> None:
        """Remove the files that belong to a job alone."""
        self._removed_jobs.add(job_id)
        await self._remove([])

    async def remove_input(self, image: str) -> None:
        await self._remove([f"{INPUTS}/{image}"])

    async def remove_video(self, job_id: str) -> None:
        await self._remove(_videos(job_id))

    async def _remove(self, names: Iterable[str]) -> None:
        self._due.update(names)
        if self.is_local:
            await self._clear()
        else:
            self._is_due.set()

    async def _clear(self) -> None:
        # What is due stays due after an error.
        jobs = set(self._removed_jobs)
        due = {name for name in self._due if not self._is_used(name)}
        self._due &= due
        await self._in_thread(lambda: _delete(self._store, jobs, due))
        self._removed_jobs -= jobs
        self._due -= due

    async def _remove_on(self) -> None:
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            await self._insist(self._clear)

    async def _keep_folders(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self._in_thread(self._restore_folders)
            self._note_space(await self._in_thread(self._free_bytes))

    def _restore_folders(self) -> None:
        missing = [name for name in FOLDERS if not self._store.local(name).is_dir()]
        if missing:
            places = ", ".join(str(self._store.local(name)) for name in missing)
            logger.error("made anew, removed under the running server: %s", places)
            try:
                self._store.prepare()
            except OSError as error:
                logger.error("cannot make them yet: %s", error)

    def _free_bytes(self) -> int:
        try:
            return shutil.disk_usage(self._store.local(VIDEOS)).free
        except OSError as error:  # the folder was removed just now
            logger.warning("cannot measure the free space of the videos' disk: %s", error)
            return self._min_free_bytes

    def _note_space(self, free_bytes: int) -> None:
        is_low = free_bytes < self._min_free_bytes
        if is_low and not self.is_space_low:
            logger.warning(
                "the disk has %.1f GiB of free space, less than %.1f (--min-free-space): the "
                "oldest videos that are not kept are removed",
                free_bytes / 2**30,
                self._min_free_bytes / 2**30,
            )
        self.is_space_low = is_low

    async def _sweep(self) -> None:
        # Listing a large store takes long and changes nothing, so it needs no turn in the thread.
        orphans = self._orphans(await asyncio.to_thread(_all_names, self._store))
        # Fronts served before the broker did: images they stored get their jobs within this time.
        await asyncio.sleep(SETTLE_S)
        orphans = self._orphans(orphans)
        await self._in_thread(lambda: self._store.delete(orphans))
        if orphans:
            logger.info("removed %d files that belong to no job", len(orphans))

    async def _insist(self, act: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await act()
            except StoreError as error:
                logger.warning("cannot remove files yet, next try in %g s: %s", RETRY_S, error)
            await asyncio.sleep(RETRY_S)

    def _orphans(self, names: Iterable[str]) -> list[str]:
        wanted = _wanted(self._dispatcher.jobs())
        return [
            name
            for name in names
            if is_own(name) and not (_owner(name) in wanted or self._is_used(name))
        ]

    def _is_used(self, name: str) -> bool:
        folder, _, image = name.partition("/")
        return folder == INPUTS and self._dispatcher.uses_image(image)

    def _missing(self, images: Collection[str]) -> set[str]:
        return {image for image in images if not self._store.has(f"{INPUTS}/{image}")}

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def expect_no_files(store: Store, place: str, journal: Path) -> None:
    """Check that a new journal does not meet files of an earlier one, which a sweep would remove.

    Raises:
        MissingJournalError: If the store holds files of jobs.
        JournalError: If the store cannot be reached.
    """
    try:
        names = [name for folder in (INPUTS, VIDEOS, CHECKPOINTS) for name in _own(store, folder)]
    except StoreError as error:
        raise JournalError(f"cannot look for files of an earlier journal: {error}") from error
    if names:
        raise MissingJournalError(
            f"{journal} is missing or empty, but {place} holds {len(names)} files of its jobs, "
            f"such as {names[0]}; nothing was removed. Put the journal or a backup of it in its "
            f"place, or move {INPUTS}, {VIDEOS} and {CHECKPOINTS} away to start without old jobs"
        )


def _own(store: Store, folder: str) -> list[str]:
    # A folder that was never used is missing.
    if store.is_local and not store.local(folder).is_dir():
        return []
    return [name for name in store.names(folder) if is_own(name)]


def _all_names(store: Store) -> list[str]:
    return [name for folder in FOLDERS for name in store.names(folder)]


def _wanted(jobs: Iterable[Job]) -> set[str]:
    """Return the owners, as `_owner` returns them, of files that stay, apart from images."""
    wanted = set()
    for job in jobs:
        if not job.state.is_terminal:
            wanted.add(f"{CHECKPOINTS}/{job.job_id}")
        if job.state not in (JobState.FAILED, JobState.CANCELLED):
            # The video of a running job may be complete, with its report under way.
            wanted.add(f"{VIDEOS}/{job.job_id}")
        if job.lease is not None:
            wanted.add(f"{PARTIAL}/{job.job_id}.{job.attempt}")
    return wanted


def _no_input(job: Job, missing: Collection[str]) -> Refused:
    field = "image" if job.image in missing else "last_image"
    return Refused(
        code=ErrorCode.IMAGE_REMOVED,
        message=f"the {field.replace('_', ' ')} was removed meanwhile; send it again",
        field=field,
        retry_after_s=1,
    )


def _owner(name: str) -> str:
    """Return what a file belongs to: itself if it is an image, else a job or an attempt."""
    folder, _, file = name.rpartition("/")
    if folder == INPUTS:
        return name
    num_parts = 2 if folder == PARTIAL else 1
    return f"{folder}/{'.'.join(file.split('.')[:num_parts])}"


def _videos(job_id: str) -> list[str]:
    return [f"{VIDEOS}/{job_id}{suffix}" for suffix in _SUFFIXES]


def _delete(store: Store, jobs: Collection[str], names: Iterable[str]) -> None:
    # Files that lost attempts left behind.
    strays = [
        name
        for folder in (PARTIAL, CHECKPOINTS)
        for name in (store.names(folder) if jobs else [])
        if is_own(name) and name.rpartition("/")[2].split(".")[0] in jobs
    ]
    whole = [name for job_id in jobs for name in (*_videos(job_id), checkpoint_name(job_id))]
    store.delete([*whole, *strays, *names])
