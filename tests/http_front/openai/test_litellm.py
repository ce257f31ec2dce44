"""The unmodified `litellm` package, in its own process because it warns and sets up logs."""

import asyncio
import json
import sys
import tempfile
from pathlib import Path

from tests.broker.driver import broker_config, running_broker
from tests.http_front.openai import litellm_client
from tests.http_front.serving import serve
from tests.stub_group import FAKE_VIDEO, StubConfig, StubGroup

LIMIT_S = 120.0


async def test_litellm_makes_polls_and_downloads_a_video() -> None:
    with tempfile.TemporaryDirectory(prefix="wan-") as state_dir:
        config = broker_config(Path(state_dir))
        stub = StubConfig(addresses=config.addresses, videos_dir=f"{state_dir}/videos", num_steps=4)
        async with (
            running_broker(config),
            StubGroup(stub),
            serve(Path(state_dir), config.addresses) as front,
            asyncio.timeout(LIMIT_S),
        ):
            client = await asyncio.create_subprocess_exec(
                sys.executable, litellm_client.__file__, front.url, stdout=asyncio.subprocess.PIPE
            )
            output, _ = await client.communicate()
    assert json.loads(output.splitlines()[-1]) == {
        "status": "completed",
        "seconds": "4",
        "size": "1280x720",
        "num_bytes": len(FAKE_VIDEO),
    }
