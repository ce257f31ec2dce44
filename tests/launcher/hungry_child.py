"""Runs in a cgroup of 64 MiB and starts a child that takes more: prints how the child ended."""

import asyncio
import os
import sys
from pathlib import Path

from launcher.spawn import Reaper

HUNGRY = "held = bytearray(b'x') * (1 << 28)"


async def main(cgroup: Path) -> None:
    (cgroup / "cgroup.procs").write_text(str(os.getpid()))
    reaper = Reaper()
    reaper.start()
    command = [sys.executable, "-c", HUNGRY]
    pid = os.posix_spawn(sys.executable, command, os.environ)  # noqa: ASYNC221
    sys.stdout.write(reaper.describe_exit(await reaper.exited(pid)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
