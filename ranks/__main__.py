"""The nursery of a group: it imports what ranks need once, forks them, and ends.

Importing torch, diffusers and transformers takes seconds of processor time. Forking it eight times
takes none and shares the memory; that is allowed because nothing imported starts a thread or
touches a device. The launcher, a subreaper, becomes the parent of the ranks.
"""

import gc
import logging
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

import msgspec

from broker.child import begin, report
from ranks.config import RankConfig
from ranks.environment import set_environment_defaults

logger = logging.getLogger("ranks")

_REPARENT_LIMIT_S = 30.0


def main() -> None:
    """Fork the ranks of one life of a group."""
    config = msgspec.json.decode(sys.argv[1], type=RankConfig)
    begin(f"{config.group}/nursery", config.parent_pid, config.log_format)
    set_environment_defaults(Path(config.rendezvous).parent)
    import ranks.serve  # noqa: F401 (here, after the death signal is set: it takes seconds)

    gc.freeze()  # collections would otherwise touch, hence copy, every shared page
    nursery_pid = os.getpid()
    for rank in range(config.world_size):
        pid = os.fork()
        if pid == 0:
            _live(config, rank, nursery_pid)
        report(config.ready_fd, f"born {rank} {pid}")
    os._exit(0)


def _live(config: RankConfig, rank: int, nursery_pid: int) -> NoReturn:
    """Be a rank until its end; never return into the nursery's loop."""
    exit_code = 1
    try:
        _await_new_parent(nursery_pid)
        begin(f"{config.group}/rank-{rank}", config.parent_pid, config.log_format)
        from ranks.serve import serve

        serve(config, rank)
        exit_code = 0
    except Exception:
        logger.exception("rank %d ends", rank)
    finally:
        # Not sys.exit: the exit handlers of the nursery's libraries are not this process's.
        sys.stderr.flush()
        os._exit(exit_code)


def _await_new_parent(nursery_pid: int) -> None:
    """Wait until the nursery has ended and the launcher is the parent."""
    deadline = time.monotonic() + _REPARENT_LIMIT_S
    while os.getppid() == nursery_pid:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the nursery, pid {nursery_pid}, does not end")
        time.sleep(0.002)


if __name__ == "__main__":
    main()
