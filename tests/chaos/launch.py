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
from broker.process.log import configure_logging
from launcher import restarts
from launcher.notify import ServiceManager
from launcher.options import parse_command
from launcher.plan import Plan
from launcher.preparation import prepared
from launcher.spawn import Child
from launcher.supervisor import Supervisor
from tests.chaos.stub_settings import VARIABLE, StubSettings


class StubPlan(Plan, frozen=True, kw_only=True):
    """The plan of a server that does not wait long before it tries a job again."""

    settings: StubSettings

    @classmethod
    def of(cls, plan: Plan, settings: StubSettings) -> "StubPlan":
        """Return a plan with other ranks."""
        told = structs.asdict(plan) | {"ranks_module": settings.ranks_module}
        return cls(settings=settings, **told)

    def broker(self, ready_fd: int, draining: bool) -> BrokerConfig:
        """Return the broker's config."""
        config = super().broker(ready_fd, draining)
        told = self.settings
        policy = structs.replace(
            config.policy, retry_pauses_s=told.retry_pauses_s, lost_s=told.lost_s
        )
        return structs.replace(config, policy=policy)


class StubSupervisor(Supervisor):
    """The product's, with the front that a test asks for."""

    def __init__(self, plan: StubPlan, listener: socket.socket | None) -> None:
        super().__init__(plan, listener, ServiceManager(os.environ))
        self._front = Child(self._reaper, "front", plan.settings.front_module)


def main() -> int:
    """Run the server until its stop; return the launcher's exit code."""
    settings = msgspec.json.decode(sys.argv[1], type=StubSettings)
    os.environ[VARIABLE] = sys.argv[1]
    restarts.FIRST_DELAY_S = settings.first_delay_s
    restarts.MAX_DELAY_S = 4 * settings.first_delay_s
    restarts.MAX_FAILURES = settings.max_failures
    configure_logging("launcher", "text")
    with prepared(parse_command(sys.argv[2:], {})) as (plan, listener):
        return asyncio.run(supervise(StubPlan.of(plan, settings), listener))


async def supervise(plan: StubPlan, listener: socket.socket | None) -> int:
    return await StubSupervisor(plan, listener).run()


if __name__ == "__main__":
    sys.exit(main())
