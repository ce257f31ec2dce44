"""A device breaks in the middle of a job, and stays broken for the process that uses it.

The rank must end, its group be started anew, and the job be tried again and succeed.
"""

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from tests.rehearsal.parts.demo import JOB_LIMIT_S, await_ready, start_server
from tests.running_server import RunningServer, calling

BROKEN_DEVICE = "1"


def main() -> int:
    """Return 0 if the job succeeds in its second attempt."""
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as name:
        broken = Path(name) / "broken-device"
        os.environ["REHEARSAL_BROKEN_DEVICE"] = str(broken)
        server = start_server(sys.argv[1], Path(name))
        try:
            asyncio.run(_break_and_recover(server, broken))
        except BaseException:
            sys.stdout.write(server.log())
            raise
        finally:
            server.end()
    return 0


async def _break_and_recover(server: RunningServer, broken: Path) -> None:
    await await_ready(server)
    async with calling(server) as caller:
        job_id = await caller.submit(infer_steps="100")
        await caller.wait_for(job_id, limit_s=JOB_LIMIT_S, stage="denoise")
        _break_device(broken)
        # The rank ends with an error of its own, or NCCL's watchdog ends it.
        line = await server.wait_until_logged(f"gone: rank {BROKEN_DEVICE} ", limit_s=120)
        sys.stdout.write(f"  {line}\n")
        _mend_device(broken)
        change = await caller.wait_for(job_id, limit_s=JOB_LIMIT_S, status="Succeed")
        sys.stdout.write(f"  then: {change['status']}\n")
    await server.stop()


def _break_device(broken: Path) -> None:
    broken.write_text(BROKEN_DEVICE)


def _mend_device(broken: Path) -> None:
    broken.unlink()


if __name__ == "__main__":
    sys.exit(main())
