"""A starter process whose ranks need no torch; `model_path` selects how they behave.

`live`: all become ready and keep running. `slow`: on SIGTERM, rank 0 takes a second longer than
the others and writes a file first. `stubborn`: all ignore SIGTERM. `die`: rank 1 fails to load.
`unfit`: rank 1 finds that the model cannot be served.
`mute`: rank 5 does not become ready. `break`: the starter process exits before it forks a rank.
`stuck`: it hangs before it forks one. `stuck early`: it hangs before anything else.
"""

import os
import signal
import sys
import time
from pathlib import Path

import msgspec

from broker.process.child import UNFIT_EXIT_CODE, begin, report
from ranks.config import RankConfig


def main() -> None:
    config = msgspec.json.decode(sys.argv[1], type=RankConfig)
    if config.model_path == "stuck early":
        signal.pause()
    begin("starter", config.parent_pid, config.log_format)
    if config.model_path == "stuck":
        signal.pause()
    if config.model_path == "break":
        sys.exit(3)
    starter_pid = os.getpid()
    for rank in range(config.world_size):
        if (pid := os.fork()) == 0:
            live(config, rank, starter_pid)
        report(config.ready_fd, f"born {rank} {pid}")
    os._exit(0)


def live(config: RankConfig, rank: int, starter_pid: int) -> None:
    while os.getppid() == starter_pid:
        time.sleep(0.002)
    begin(f"rank-{rank}", config.parent_pid, config.log_format)
    if config.model_path == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if config.model_path == "slow":
        signal.signal(signal.SIGTERM, lambda *_: leave_slowly(config, rank))
    if config.model_path == "die" and rank == 1:
        report(config.ready_fd, f"failed {rank} the weights are damaged")
        os._exit(1)
    if config.model_path == "unfit" and rank == 1:
        report(config.ready_fd, f"failed {rank} the model is another")
        os._exit(UNFIT_EXIT_CODE)
    if config.model_path != "mute" or rank != 5:
        report(config.ready_fd, f"ready {rank}")
    while True:
        signal.pause()


def leave_slowly(config: RankConfig, rank: int) -> None:
    if rank == 0:
        time.sleep(1)
        Path(config.store, "saved").touch()
    os._exit(0)


if __name__ == "__main__":
    main()
