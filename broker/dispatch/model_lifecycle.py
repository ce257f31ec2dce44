"""Which models are known: those that groups bring, until they have been away for long."""

from broker.dispatch.commands import DropModel, SaveModel
from broker.dispatch.dispatch_state import DispatchState
from broker.dispatch.policy import DispatchPolicy
from broker.wire.model_profile import ModelProfile


class ModelLifecycle:
    """Learns and forgets models; the journal keeps their profiles.

    So jobs are still accepted for a model whose groups are away, also after a restart.

    Args:
        state: Of the dispatcher.
        policy: Names the models of this server's own groups, which are never forgotten.
    """

    def __init__(self, state: DispatchState, policy: DispatchPolicy) -> None:
        self._state = state
        self._is_open = policy.is_open
        self._own = {shape.model.name: shape.model for shape in policy.shapes}
        self._kept_s = policy.models_kept_s
        self._away_since_s: dict[str, float] = {}

    def begin(self) -> None:
        """Put this server's own models in order with those that the journal holds."""
        kept = list(self._state.models)
        for profile in self._own.values():
            if profile not in kept:
                self._put(profile)
        for profile in kept:
            if profile.name not in self._own and not self._is_open:
                self._forget(profile.name)

    def conflict(self, profile: ModelProfile) -> str | None:
        """Return why a group may not serve a model now; None if it may.

        Jobs for one name must not get videos of two models.
        """
        for group in self._state.groups.some_ready(1, profile.name):
            assert group.shape is not None, "a ready group without a shape"
            served = group.shape.model
            if served != profile:
                hashes = f"content hash {profile.content_hash[:12]}, not {served.content_hash[:12]}"
                is_other = served.content_hash != profile.content_hash
                return (
                    f"its model {profile.name} is not that of group {group.name} "
                    f"({hashes if is_other else 'other limits'}); serve it under another name"
                )
        return None

    def learn(self, profile: ModelProfile, now_s: float) -> None:
        """Take the profile that a group reports."""
        if self._state.models.get(profile.name) != profile:
            self._put(profile)
            # Jobs from before any model was known.
            for job in list(self._state.jobs.queue.of_model(None)):
                self._state.save(job.changed(now_s), now_s)

    def forget_away(self) -> None:
        awake_s = self._state.awake.now_s
        for name in [profile.name for profile in self._state.models]:
            is_needed = name in self._own or self._state.groups.num_ready(name)
            if is_needed or self._state.jobs.queue.num_of_model(name):
                self._away_since_s.pop(name, None)
            elif awake_s - self._away_since_s.setdefault(name, awake_s) > self._kept_s:
                del self._away_since_s[name]
                self._forget(name)

    def _put(self, profile: ModelProfile) -> None:
        self._state.models.put(profile)
        self._state.emit(SaveModel(profile))

    def _forget(self, name: str) -> None:
        self._state.models.remove(name)
        self._state.emit(DropModel(name))
