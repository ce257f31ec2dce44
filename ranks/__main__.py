"""Starts the ranks of a group, and is a rank where each of them is started by itself.

`python -m ranks CONFIG` starts all ranks and ends; the launcher, a subreaper, becomes their parent.

On the CPU it imports what ranks need once and forks them: importing torch, diffusers and
transformers takes seconds of processor time, and forks share the memory. No accelerator's runtime
survives a fork, and importing diffusers is enough to touch one; so there each rank is a process
that imports for itself: `python -m ranks CONFIG RANK STARTER_PID`.
"""

import gc
import logging
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

import msgspec

from broker.process.child import begin, report
from ranks.config import RankConfig
from ranks.environment import set_environment_defaults

logger = logging.getLogger("ranks")

_REPARENT_LIMIT_S = 30.0


def main() -> None:
    """Start all ranks, or be the one that the arguments name."""
    config = msgspec.json.decode(sys.argv[1], type=RankConfig)
    if len(sys.argv) > 2:
        _live(config, int(sys.argv[2]), int(sys.argv[3]))
    begin(f"{config.group}/nursery", config.parent_pid, config.log_format)
    set_environment_defaults(Path(config.rendezvous).parent)
    start = _fork if config.can_fork else _spawn
    if config.can_fork:
        import ranks.serve  # noqa: F401 (here, after the death signal is set: it takes seconds)

        gc.freeze()  # collections would otherwise touch, hence copy, every shared page
    for rank in range(config.world_size):
        report(config.ready_fd, f"born {rank} {start(config, rank)}")
    os._exit(0)


def _fork(config: RankConfig, rank: int) -> int:
    """Start a rank that shares what is imported here; return its pid."""
    starter_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        _live(config, rank, starter_pid)
    return pid


def _spawn(config: RankConfig, rank: int) -> int:
    """Start a rank in a new interpreter; return its pid."""
    arguments = [sys.argv[1], str(rank), str(os.getpid())]
    return os.posix_spawn(sys.executable, [sys.executable, "-m", "ranks", *arguments], os.environ)


def _live(config: RankConfig, rank: int, starter_pid: int) -> NoReturn:
    """Be a rank until its end; never return into the loop that starts ranks."""
    exit_code = 1
    try:
        _await_new_parent(starter_pid)
        begin(f"{config.group}/rank-{rank}", config.parent_pid, config.log_format)
        from ranks.device_trial import try_device
        from ranks.serve import serve

        run = try_device if config.is_trial else serve
        run(config, rank)
        exit_code = 0
    except Exception:
        logger.exception("rank %d ends", rank)
    finally:
        # Not sys.exit: after a fork, the exit handlers of imported libraries are not this rank's,
        # and those of an accelerator's runtime may wait for a peer that is gone.
        sys.stderr.flush()
        os._exit(exit_code)


def _await_new_parent(starter_pid: int) -> None:
    """Wait until the process that starts the ranks has ended and the launcher is the parent."""
    deadline = time.monotonic() + _REPARENT_LIMIT_S
    while os.getppid() == starter_pid:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the process that starts the ranks, {starter_pid}, does not end")
        time.sleep(0.002)


if __name__ == "__main__":
    main()
