"""`python -m tests.chaos.launch SETTINGS [option ...]`: the launcher, as a rule with stub ranks.

All else is the product, with shorter pauses before a restart.
"""

import asyncio
import os
import socket
import sys

import msgspec
from msgspec import structs

from broker.config import BrokerConfig
from broker.log import configure_logging
from launcher import restarts
from launcher.options import parse_command
from launcher.preflight import Folders, listen, lock_state, model_folder, prepare_folders
from launcher.spawn import Child
from launcher.supervisor import Plan, Supervisor
from ranks.model_folder import num_attention_heads
from tests.chaos.stub_settings import VARIABLE, StubSettings


class StubPlan(Plan, frozen=True, kw_only=True):
    """The plan of a server that does not wait long before it tries a job again."""

    settings: StubSettings

    def broker(self, ready_fd: int, draining: bool) -> BrokerConfig:
        """Return the broker's config."""
        config = super().broker(ready_fd, draining)
        return structs.replace(config, retry_pauses_s=self.settings.retry_pauses_s)


class StubSupervisor(Supervisor):
    """The product's, with the front that a test asks for."""

    def __init__(self, plan: StubPlan, listener: socket.socket) -> None:
        super().__init__(plan, listener)
        self._front = Child(self._reaper, "front", plan.settings.front_module)


def main() -> int:
    """Run the server until its stop; return the launcher's exit code."""
    settings = msgspec.json.decode(sys.argv[1], type=StubSettings)
    os.environ[VARIABLE] = sys.argv[1]
    restarts.FIRST_DELAY_S = settings.first_delay_s
    restarts.MAX_DELAY_S = 4 * settings.first_delay_s
    restarts.MAX_FAILURES = settings.max_failures
    configure_logging("launcher", "text")
    options = parse_command(sys.argv[2:], {}).options
    folders = Folders.under(options.state_dir)
    addresses = prepare_folders(folders)
    lock = lock_state(folders)
    model = model_folder(options, folders)
    with listen(options) as listener:
        plan = StubPlan(
            settings=settings,
            options=options,
            folders=folders,
            addresses=addresses,
            model=model,
            num_heads=num_attention_heads(model),
            pid=os.getpid(),
            ranks_module=settings.ranks_module,
        )

        async def supervise() -> int:
            return await StubSupervisor(plan, listener).run()

        exit_code = asyncio.run(supervise())
    os.close(lock)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
