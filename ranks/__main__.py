"""Starts the ranks of a group; on accelerators, also the entry point of each single rank.

`python -m ranks CONFIG` starts all ranks and exits. The launcher, a subreaper, becomes their
parent.

On the CPU this process imports the libraries once and forks the ranks: importing torch, diffusers
and transformers takes seconds of processor time, and forks share the memory. No accelerator runtime
survives a fork, and importing diffusers is enough to initialise one. So on accelerators each rank
is a new interpreter: `python -m ranks CONFIG RANK STARTER_PID`.
"""

import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec

from broker.process.child import UNFIT_EXIT_CODE, begin, importing, report
from broker.process.import_path import python
from ranks.config import RankConfig
from ranks.environment import set_environment_defaults
from ranks.errors import ModelFolderError, UnfitMemoryError

logger = logging.getLogger("ranks")

_REPARENT_LIMIT_S = 30.0


def main() -> None:
    config = msgspec.json.decode(sys.argv[1], type=RankConfig)
    if len(sys.argv) > 2:
        _run_rank(config, int(sys.argv[2]), int(sys.argv[3]))
    begin(f"{config.group}/starter", config.parent_pid, config.log_format)
    set_environment_defaults(Path(config.rendezvous).parent)
    start = _fork if config.can_fork else _spawn
    if config.can_fork:
        _import_work(config)
    for rank in range(config.world_size):
        report(config.ready_fd, f"born {rank} {start(config, rank)}")
    logging.shutdown()
    os._exit(0)


def _fork(config: RankConfig, rank: int) -> int:
    starter_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        _run_rank(config, rank, starter_pid)
    return pid


def _spawn(config: RankConfig, rank: int) -> int:
    arguments = [sys.argv[1], str(rank), str(os.getpid())]
    return os.posix_spawn(sys.executable, python("ranks", *arguments), os.environ)


def _run_rank(config: RankConfig, rank: int, starter_pid: int) -> NoReturn:
    # A forked rank must not return into `main`: this exits the process.
    exit_code = 1
    try:
        _await_new_parent(starter_pid)
        begin(f"{config.group}/rank-{rank}", config.parent_pid, config.log_format)
        work = _import_work(config)
        work(config, rank)
        exit_code = 0
    except (ModelFolderError, UnfitMemoryError) as error:
        logger.error("rank %d: %s", rank, error)
        exit_code = UNFIT_EXIT_CODE
    except Exception:
        logger.exception("rank %d failed", rank)
    finally:
        # Not sys.exit: after a fork, the exit handlers of imported libraries belong to the parent,
        # and those of an accelerator runtime may wait for a peer that has exited.
        logging.shutdown()
        os._exit(exit_code)


def _import_work(config: RankConfig) -> Callable[[RankConfig, int], None]:
    """Import and return what a rank does. It takes seconds: call it after `begin`."""
    with importing():
        if config.is_trial:
            from ranks.device_trial import try_device as work
        else:
            from ranks.serve import serve as work
    return work


def _await_new_parent(starter_pid: int) -> None:
    deadline = time.monotonic() + _REPARENT_LIMIT_S
    while os.getppid() == starter_pid:
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"the process that starts the ranks, pid {starter_pid}, "
                f"did not exit within {_REPARENT_LIMIT_S:g} s"
            )
        time.sleep(0.002)


if __name__ == "__main__":
    main()
