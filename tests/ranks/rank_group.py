"""A group of real ranks for tests: processes that run jobs on demand.

`RankGroup` is the test's end. `python -m tests.ranks.rank_group START` is the other: ranks, forked
or started one by one as the server does it on the same device. Rank 0 reads tasks from standard
input, announces them to the others over the real control channel, and every rank writes what it
found.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

import msgspec
import safetensors.torch
from torch import Tensor

from broker.job import GroupShape, JobSpec
from broker.protocol import Lease, RunJob
from broker.sockets import Addresses
from ranks.config import RankConfig

_LIMIT_S = 120.0


class GroupStart(msgspec.Struct, frozen=True, kw_only=True):
    """How ranks begin."""

    config: RankConfig
    rank: int | None = None
    """Which rank a process is; None forks them all."""
    patch: str | None = None
    """What they do all their work in: a context manager, as `MODULE:FUNCTION` or
    `MODULE:FUNCTION:ARGUMENT`."""


class GroupTask(msgspec.Struct, frozen=True, kw_only=True):
    """One job for the group, and what is to happen in it."""

    number: int
    job: RunJob
    cancel_at_meeting: int | None = None
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


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one rank has to tell of a task."""

    rank: int
    outcome: str
    meetings: int
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

    findings: list[Finding]
    frames: Tensor | None

    @property
    def outcomes(self) -> set[str]:
        """How the task ended, over all ranks; `done` is the good end."""
        return {finding.outcome for finding in self.findings}


class RankGroup:
    """The test's end of a group of ranks.

    Args:
        folder: For the group's files, new and empty.
        model: Model folder.
        world_size: Number of ranks.
        device: Kind of their devices.
        environment: Added to the environment of the ranks.
        can_fork: Whether the ranks share one import; None: where the server's ranks do.
        patch: As in `GroupStart`.
    """

    def __init__(
        self,
        folder: Path,
        model: Path,
        world_size: int,
        *,
        device: Literal["npu", "cpu"] = "cpu",
        environment: Mapping[str, str] | None = None,
        can_fork: bool | None = None,
        patch: str | None = None,
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
            parent_pid=os.getpid(),
        )
        is_forked = config.can_fork if can_fork is None else can_fork
        ranks: list[int | None] = [None] if is_forked else [*range(world_size)]
        self._processes = [
            _start(GroupStart(config=config, rank=rank, patch=patch), environment or {})
            for rank in ranks
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._stdin is not None
        assert self._stdout is not None
        with suppress(BrokenPipeError):
            self._stdin.close()
        try:
            for process in self._processes:
                process.wait(_LIMIT_S)
        finally:
            for process in self._processes:
                process.kill()
                process.wait()
            self._stdout.close()

    @property
    def shape(self) -> GroupShape:
        """What the group has told of itself; known once it has run a job."""
        return msgspec.json.decode(shape_path(self._folder).read_bytes(), type=GroupShape)

    def run(
        self,
        spec: JobSpec,
        image: str = "sample.png",
        *,
        cancel_at_meeting: int | None = None,
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
        self._tell(
            GroupTask(
                number=number,
                job=RunJob(lease=lease, spec=spec, image=image),
                cancel_at_meeting=cancel_at_meeting,
                fail_rank=fail_rank,
                drift_rank=drift_rank,
                keep_step=keep_step,
                is_resumed=is_resumed,
                patch=patch,
            )
        )
        findings = [
            msgspec.json.decode(self._result(number, rank).read_bytes(), type=Finding)
            for rank in range(self._world_size)
        ]
        path = self._folder / "results" / f"{number}.safetensors"
        frames = safetensors.torch.load_file(path)["frames"] if path.exists() else None
        return Result(findings=findings, frames=frames)

    def _tell(self, task: GroupTask) -> None:
        assert self._stdin is not None
        assert self._stdout is not None
        self._stdin.write(msgspec.json.encode(task) + b"\n")
        self._stdin.flush()
        deadline = time.monotonic() + _LIMIT_S
        while not select.select([self._stdout], [], [], 1.0)[0]:
            self._require_all()
            if time.monotonic() > deadline:
                raise TimeoutError(f"no result within {_LIMIT_S} s")
        answer = self._stdout.readline()
        if json.loads(answer or b"null") != task.number:
            raise RuntimeError(f"the group ended or is confused: {answer!r}")

    def _require_all(self) -> None:
        """Notice a lost rank at once: on an accelerator the others would wait for it for long."""
        codes = {rank: process.poll() for rank, process in enumerate(self._processes)}
        lost = {rank: code for rank, code in codes.items() if code is not None}
        if lost:
            self.kill()
            raise RuntimeError(f"processes ended with these codes: {lost}")

    def kill(self) -> None:
        """End what is left of the group."""
        for process in self._processes:
            process.kill()

    @property
    def _stdin(self) -> IO[bytes] | None:
        return self._processes[0].stdin

    @property
    def _stdout(self) -> IO[bytes] | None:
        return self._processes[0].stdout

    def _result(self, number: int, rank: int) -> Path:
        return self._folder / "results" / f"{number}.{rank}.json"


def shape_path(folder: Path) -> Path:
    """Return where rank 0 writes the shape of its group."""
    return folder / "results" / "shape.json"


def _start(start: GroupStart, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    is_first = not start.rank
    pipe = subprocess.PIPE if is_first else subprocess.DEVNULL
    return subprocess.Popen(
        [sys.executable, "-m", "tests.ranks.rank_group", msgspec.json.encode(start).decode()],
        env=os.environ | environment,
        stdin=pipe,
        stdout=pipe,
    )


if __name__ == "__main__":
    from tests.ranks.rank_group_main import main

    main()
