"""The front learns the models from the broker, and keeps what it learned while that restarts."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import zmq

from broker.wire.errors import ErrorCode
from broker.wire.job import JobSpec
from http_front.broker_client import BrokerClient
from http_front.errors import FrontError
from http_front.models.known_models import FRESH_S, KnownModels
from tests.http_front.models.profiles import SMALL, WAN21
from tests.http_front.scripted_broker import ScriptedBroker, models_found
from tests.http_front.serving import PROMPT


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def known(broker: ScriptedBroker, clock: Clock) -> AsyncIterator[KnownModels]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    client = BrokerClient(context, broker.addresses.requests)
    yield KnownModels(client, clock)
    await client.close()
    context.term()


async def test_the_broker_is_asked_once_in_a_while(
    known: KnownModels, broker: ScriptedBroker, clock: Clock
) -> None:
    for _ in range(5):
        assert (await known.choose(None)).profile == WAN21
    assert len(broker.asked) == 1
    broker.models = models_found(SMALL)
    clock.now_s += FRESH_S
    assert (await known.choose(None)).profile == SMALL


async def test_a_model_that_has_just_joined_is_found_at_once(
    known: KnownModels, broker: ScriptedBroker
) -> None:
    await known.found()
    broker.models = models_found(WAN21, SMALL)
    chosen = await known.choose(SMALL.name)
    assert (chosen.profile, chosen.is_default) == (SMALL, False)


async def test_the_last_answer_holds_while_the_broker_is_silent(
    known: KnownModels, broker: ScriptedBroker, clock: Clock
) -> None:
    broker.models = models_found(SMALL)
    await known.found()
    broker.silent = True
    clock.now_s += FRESH_S
    assert (await known.choose(None)).profile == SMALL
    assert (await known.choose(SMALL.name)).profile == SMALL
    assert await known.profile_of(JobSpec(prompt=PROMPT, model=SMALL.name)) == SMALL


async def test_a_broker_that_never_answered_is_unavailable(
    known: KnownModels, broker: ScriptedBroker
) -> None:
    broker.silent = True
    with pytest.raises(FrontError) as refused:
        await known.found(limit_s=0.1)
    assert refused.value.code is ErrorCode.UNAVAILABLE


@pytest.mark.parametrize("name", [None, "Wan2.1-I2V-14B-720P"])
async def test_before_any_model_is_known_a_job_is_checked_as_for_the_first_model(
    known: KnownModels, broker: ScriptedBroker, name: str | None
) -> None:
    broker.models = models_found()
    chosen = await known.choose(name)
    assert (chosen.profile, chosen.name) == (WAN21, name)
