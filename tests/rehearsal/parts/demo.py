"""A whole server on the demo model, one job from submit to MP4, and a clean end."""

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.running_server import RunningServer, calling, until

WORLD_SIZE = 2
JOB_LIMIT_S = 300.0


def main() -> int:
    """Return 0 if the job succeeds and nothing is left running."""
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        server = start_server(sys.argv[1], Path(folder))
        try:
            return asyncio.run(_serve_one_job(server))
        except BaseException:
            sys.stdout.write(server.log())
            raise
        finally:
            server.end()


def start_server(kind: str, folder: Path) -> RunningServer:
    """Start a server of the demo model, on devices of a kind."""
    command = ("launch.py", "--demo", "--device", kind, "--port", "0", "--nproc", str(WORLD_SIZE))
    return RunningServer(folder / "state", command=command)


async def await_ready(server: RunningServer) -> None:
    """Wait until the server takes jobs; its group may have to compile first."""
    line = await server.wait_until_logged(" launcher ready after ", limit_s=300)
    server.url = line.split()[-1]


async def _serve_one_job(server: RunningServer) -> int:
    await await_ready(server)
    async with calling(server) as caller:
        job_id = await caller.submit()
        change = await caller.wait_for(job_id, limit_s=JOB_LIMIT_S, status="Succeed")
        async with caller.session.get(change["results"]["video_url"]) as response:
            video = await response.read()
    sys.stdout.write(f"  a video of {len(video)} bytes\n")
    exit_code = await server.stop()
    await until(lambda: not server.pids(), limit_s=30)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
