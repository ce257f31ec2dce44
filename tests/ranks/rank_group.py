"""A group of real ranks for tests: 8 processes over gloo that run jobs on demand.

`RankGroup` is the test's end. `python -m tests.ranks.rank_group CONFIG` is the other: it forks the
ranks as the server's nursery does; rank 0 reads tasks from standard input, announces them to the
others over the real control channel, and every rank writes what it found.
"""

import json
import os
import select
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import safetensors.torch
from torch import Tensor

from broker.job import JobSpec
from broker.protocol import Lease, RunJob
from broker.sockets import Addresses
from ranks.config import RankConfig

_LIMIT_S = 120.0


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


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one rank has to tell of a task."""

    rank: int
    outcome: str
    meetings: int


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
    """

    def __init__(self, folder: Path, model: Path, world_size: int) -> None:
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
            device="cpu",
            addresses=Addresses.in_folder(folder),
            store=str(folder),
            rendezvous=str(folder / "rendezvous"),
            parent_pid=os.getpid(),
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.ranks.rank_group", msgspec.json.encode(config).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_LIMIT_S)
        finally:
            self._process.kill()
            self._process.stdout.close()

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
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(task) + b"\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], _LIMIT_S)
        if not ready:
            raise TimeoutError(f"no result within {_LIMIT_S} s")
        answer = self._process.stdout.readline()
        if json.loads(answer or b"null") != task.number:
            raise RuntimeError(f"the group ended or is confused: {answer!r}")

    def _result(self, number: int, rank: int) -> Path:
        return self._folder / "results" / f"{number}.{rank}.json"


if __name__ == "__main__":
    from tests.ranks.rank_group_main import main

    main()
