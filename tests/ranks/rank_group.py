"""A group of real ranks for tests: processes that run jobs on demand.

`RankGroup` is the test's end. `python -m tests.ranks.rank_group START` is the other: it imports
what ranks need and forks them. Rank 0 reads tasks from standard input, announces them to the others
over the real control channel, and every rank writes what it found.
"""

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Protocol, Self, cast

import msgspec
import safetensors.torch
from torch import Tensor

from broker.process.child import importing
from broker.wire.group_commands import RunJob
from broker.wire.group_shape import GroupShape
from broker.wire.job import JobSpec
from broker.wire.job_view import Lease
from broker.wire.sockets import Addresses
from ranks.config import RankConfig

_LIMIT_S = 120.0
_MIN_STEPS, _MIN_FRAMES = 20, 24


class GroupProcess(Protocol):
    """The process that forks the ranks, as `subprocess.Popen` with both pipes."""

    stdin: IO[bytes]
    stdout: IO[bytes]

    def kill(self) -> None: ...

    def wait(self, timeout: float | None = None) -> object: ...


class GroupStart(msgspec.Struct, frozen=True, kw_only=True):
    """How ranks begin."""

    config: RankConfig
    patch: str | None = None
    """What they do all their work in: a context manager, as `MODULE:FUNCTION` or
    `MODULE:FUNCTION:ARGUMENT`."""


class GroupTask(msgspec.Struct, frozen=True, kw_only=True):
    """One job for the group, and what is to happen in it."""

    number: int
    job: RunJob
    num_steps: int
    num_frames: int
    """These two replace the job's, which cannot be as few as often will do."""
    cancel_at_meeting: int | None = None
    cancel_at_part: int | None = None
    """How many parts of steps are done when the job is cancelled."""
    num_parts: int | None = None
    """How many parts rank 0 proposes for each step; the others propose one."""
    fail_rank: int | None = None
    """Rank that raises after its second step."""
    drift_rank: int | None = None
    """Rank whose latents change a little after the last step, as if a kernel had rounded so."""
    keep_step: int | None = None
    """Step after which rank 0 saves the state as `state.safetensors`."""
    is_resumed: bool = False
    """Whether to go on from that state."""
    patch: str | None = None
    """What every rank runs the job in, spelled as in `GroupStart`."""


class RankReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one rank has to tell of a task."""

    rank: int
    outcome: str
    num_meetings: int
    skipped_steps: tuple[int, ...]
    num_parts: int
    """Parts of denoising steps that were done before the end of their step."""
    is_tidy: bool
    """Whether no weight of a block is gathered, and no forward pass is open."""
    host_waits: list[int]
    """How often the host waited for the device, in each denoising step; of the stand-in NPU only,
    as all that follows."""
    counts: dict[str, int]
    """How often what has happened on the device in the run."""
    held_bytes: int
    """What the device holds after the run."""
    peak_bytes: int
    """The most that it held in the run."""


@dataclass(frozen=True)
class Result:
    """What became of a task; frames are on the CPU, `[1, 3, T, H, W]`, from -1 to 1."""

    reports: list[RankReport]
    frames: Tensor | None

    @property
    def outcomes(self) -> set[str]:
        """How the task ended, over all ranks; `done` is the good end."""
        return {report.outcome for report in self.reports}


class RankGroup:
    """The test's end of a group of ranks.

    Args:
        folder: For the group's files, new and empty.
        model: Model folder.
        world_size: Number of ranks.
        device: Kind of their devices.
        options: Further fields of their config.
        start: Starts the process that forks the ranks, given the argument of its `main`; by
            default a new interpreter.
        patch: As in `GroupStart`.
        offload: As in `RankConfig`.
    """

    def __init__(
        self,
        folder: Path,
        model: Path,
        world_size: int,
        *,
        device: Literal["npu", "cpu"] = "cpu",
        options: Mapping[str, object] | None = None,
        start: Callable[[str], GroupProcess] | None = None,
        patch: str | None = None,
        offload: str | None = "none",
    ) -> None:
        self.inputs_dir = folder / "inputs"
        self.state_path = folder / "checkpoints" / "state.safetensors"
        self._folder = folder
        self._world_size = world_size
        self._num_tasks = 0
        for name in ("inputs", "videos", "checkpoints", "results"):
            (folder / name).mkdir()
        config = RankConfig(
            group="group-0",
            epoch=1,
            world_size=world_size,
            model_path=str(model),
            device=device,
            addresses=Addresses.in_folder(folder),
            store=str(folder),
            rendezvous=str(folder / "rendezvous"),
            vae_parallel=False,
            offload=offload,
            parent_pid=os.getpid(),
        )
        config = msgspec.structs.replace(config, **(options or {}))
        group_start = GroupStart(config=config, patch=patch)
        self._process = (start or _start)(msgspec.json.encode(group_start).decode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_LIMIT_S)
        finally:
            self.kill()
            self._process.wait()
            self._process.stdout.close()

    @property
    def shape(self) -> GroupShape:
        """What the group has told of itself; known once it has run a job."""
        return msgspec.json.decode(shape_path(self._folder).read_bytes(), type=GroupShape)

    def run(
        self,
        spec: JobSpec,
        image: str = "sample.png",
        *,
        last_image: str | None = None,
        cancel_at_meeting: int | None = None,
        cancel_at_part: int | None = None,
        num_parts: int | None = None,
        fail_rank: int | None = None,
        drift_rank: int | None = None,
        keep_step: int | None = None,
        is_resumed: bool = False,
        patch: str | None = None,
    ) -> Result:
        """Run a job on all ranks; return what each found, and the frames if there are any."""
        self._num_tasks += 1
        number = self._num_tasks
        lease = Lease(group="group-0", epoch=1, job_id=f"{number:032x}", attempt=1)
        self._submit(
            GroupTask(
                number=number,
                job=RunJob(
                    lease=lease,
                    spec=msgspec.structs.replace(
                        spec, infer_steps=_MIN_STEPS, num_frames=_MIN_FRAMES
                    ),
                    image=image,
                    last_image=last_image,
                ),
                num_steps=spec.infer_steps,
                num_frames=spec.num_frames,
                cancel_at_meeting=cancel_at_meeting,
                cancel_at_part=cancel_at_part,
                num_parts=num_parts,
                fail_rank=fail_rank,
                drift_rank=drift_rank,
                keep_step=keep_step,
                is_resumed=is_resumed,
                patch=patch,
            )
        )
        reports = [
            msgspec.json.decode(self._report(number, rank).read_bytes(), type=RankReport)
            for rank in range(self._world_size)
        ]
        path = self._folder / "results" / f"{number}.safetensors"
        frames = safetensors.torch.load_file(path)["frames"] if path.exists() else None
        return Result(reports=reports, frames=frames)

    def _submit(self, task: GroupTask) -> None:
        self._process.stdin.write(msgspec.json.encode(task) + b"\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], _LIMIT_S)[0]:
            raise TimeoutError(f"no result within {_LIMIT_S} s")
        answer = self._process.stdout.readline()
        if json.loads(answer or b"null") != task.number:
            raise RuntimeError(f"the group ended or is confused: {answer!r}")

    def kill(self) -> None:
        """End the ranks: they end with the process that has forked them."""
        self._process.kill()

    def _report(self, number: int, rank: int) -> Path:
        return self._folder / "results" / f"{number}.{rank}.json"


def shape_path(folder: Path) -> Path:
    """Return where rank 0 writes the shape of its group."""
    return folder / "results" / "shape.json"


def _start(start: str) -> GroupProcess:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.ranks.rank_group", start],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    return cast(GroupProcess, process)  # with both pipes


if __name__ == "__main__":
    with importing():
        from tests.ranks.rank_group_main import main
    main(sys.argv[1])
