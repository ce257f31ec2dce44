"""What the broker says of the models that jobs may name, kept for a moment."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from broker.process.log import one_line
from broker.wire.errors import ErrorCode
from broker.wire.job import JobSpec
from broker.wire.model_profile import ModelProfile
from broker.wire.replies import ModelsFound, ModelView
from broker.wire.requests import ListModels
from http_front.broker_client import REPLY_LIMIT_S, BrokerClient
from http_front.errors import FrontError

FRESH_S = 2.0
STALE_LIMIT_S = 1.0
"""How long the broker may take to answer while an earlier answer is there to be used."""
_SHOWN_CHARS = 100


class ChosenModel(NamedTuple):
    """The model of a job."""

    profile: ModelProfile
    name: str | None
    """None as long as the broker knows no model; it then resolves the default itself."""
    is_default: bool


class KnownModels:
    """Asks the broker for its models, and goes by its last answer while it restarts.

    Args:
        broker: The broker.
        clock: Monotonic clock, in seconds.
    """

    def __init__(self, broker: BrokerClient, clock: Callable[[], float]) -> None:
        self._broker = broker
        self._clock = clock
        self._found: ModelsFound | None = None
        self._asked_s = 0.0
        self._asking = asyncio.Lock()

    async def found(
        self, max_age_s: float = FRESH_S, limit_s: float = REPLY_LIMIT_S
    ) -> ModelsFound:
        """Return the models as they were `max_age_s` ago, or when the broker last answered.

        Raises:
            FrontError: If the broker has never answered and does not within the limit.
        """
        found = self._fresh(max_age_s)
        if found is None:
            async with self._asking:
                found = self._fresh(max_age_s)  # another request may have asked meanwhile
                if found is None:
                    found = self._found = await self._ask(self._found, limit_s)
                    self._asked_s = self._clock()
        return found

    def _fresh(self, max_age_s: float) -> ModelsFound | None:
        return self._found if self._clock() - self._asked_s < max_age_s else None

    async def choose(self, name: str | None) -> ChosenModel:
        """Return the model that a job names; None is the default.

        Raises:
            FrontError: If the server has no such model.
        """
        found = await self.found()
        if name is not None and _view(found, name) is None:
            found = await self.found(max_age_s=0.0)  # a group may just have brought it
        wanted = found.default if name is None else name
        is_default = wanted == found.default
        view = _view(found, wanted)
        if view is not None:
            return ChosenModel(view.profile, wanted, is_default)
        if found.models and not is_default:
            raise unknown_model(wanted, found)
        return ChosenModel(ModelProfile(), wanted, is_default)

    async def profile_of(self, spec: JobSpec | None) -> ModelProfile:
        """Return the profile of a job's model, as far as it is known, to describe the job.

        Raises:
            FrontError: If the broker has never answered and does not now.
        """
        name = None if spec is None else spec.model
        found = self._found
        if found is None or _view(found, name or found.default) is None:
            found = await self.found()
        view = _view(found, name or found.default)
        return ModelProfile() if view is None else view.profile

    async def _ask(self, before: ModelsFound | None, limit_s: float) -> ModelsFound:
        if before is None:
            return await self._broker.ask(ListModels(), limit_s)
        try:
            return await self._broker.ask(ListModels(), STALE_LIMIT_S)
        except FrontError:
            return before


def unknown_model(name: str | None, found: ModelsFound) -> FrontError:
    shown = one_line(str(name))[:_SHOWN_CHARS]
    names = ", ".join(view.profile.name for view in found.models)
    return FrontError(
        ErrorCode.UNKNOWN_MODEL, f'model is "{shown}"; this server serves {names}', "model"
    )


def _view(found: ModelsFound, name: str | None) -> ModelView | None:
    return next((view for view in found.models if view.profile.name == name), None)
