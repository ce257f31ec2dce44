"""`python -m tests.chaos.launch SETTINGS [option ...]`: the launcher, by default with stub ranks.

All else is the product, with shorter delays before a restart.
"""

import asyncio
import os
import socket
import sys

import msgspec
from msgspec import structs

from broker.config import BrokerConfig
from broker.process.log import configure_logging
from launcher import hang_watch, restarts
from launcher.command_line import parse_command
from launcher.notify import ServiceManager
from launcher.plan import Plan
from launcher.preparation import prepared
from launcher.spawn import Child
from launcher.supervisor import Supervisor
from tests.chaos.stub_settings import VARIABLE, StubSettings


class StubPlan(Plan, frozen=True, kw_only=True):
    """A plan with a test's time limits for the broker."""

    settings: StubSettings

    @classmethod
    def of(cls, plan: Plan, settings: StubSettings) -> "StubPlan":
        return cls(settings=settings, **structs.asdict(plan))

    def broker_config(self, ready_fd: int, draining: bool) -> BrokerConfig:
        config = super().broker_config(ready_fd, draining)
        policy = structs.replace(
            config.policy,
            retry_pauses_s=self.settings.retry_pauses_s,
            lost_s=self.settings.lost_s,
        )
        return structs.replace(config, policy=policy)


class StubSupervisor(Supervisor):
    """The product's supervisor, with the ranks and the front that a test asks for."""

    def __init__(self, plan: StubPlan, listener: socket.socket | None) -> None:
        super().__init__(plan, listener, ServiceManager(os.environ))
        self._front = Child(self._reaper, "front", plan.settings.front_module)
        self._ranks_module = plan.settings.ranks_module


def main() -> int:
    settings = msgspec.json.decode(sys.argv[1], type=StubSettings)
    os.environ[VARIABLE] = sys.argv[1]
    restarts.FIRST_DELAY_S = settings.first_delay_s
    restarts.MAX_DELAY_S = 4 * settings.first_delay_s
    restarts.MAX_FAILURES = settings.max_failures
    hang_watch.HUNG_AFTER_S = settings.hung_after_s
    configure_logging("launcher", "text")
    with prepared(parse_command(sys.argv[2:], {})) as (plan, listener):
        return asyncio.run(supervise(StubPlan.of(plan, settings), listener))


async def supervise(plan: StubPlan, listener: socket.socket | None) -> int:
    return await StubSupervisor(plan, listener).run()


if __name__ == "__main__":
    sys.exit(main())
