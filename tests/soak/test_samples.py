"""The soak measures the server's processes, however they are started."""

from pathlib import Path

from tests.chaos.server import chaos_server
from tests.soak.samples import Samples


async def test_each_process_of_a_server_is_measured(tmp_path: Path) -> None:
    """It once found none but the launcher, and reported that nothing grows."""
    async with chaos_server(tmp_path / "state") as server:
        samples = Samples()
        samples.take(0.0, "stub", server.life, server.state_dir)
        assert {process.role for process in samples.processes} == {"launcher", "broker", "front"}
        for ((_, sample),) in samples.processes.values():
            assert sample.memory_bytes > 5e6
