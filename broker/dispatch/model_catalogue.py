"""The models that jobs may name."""

from collections.abc import Iterable, Iterator

from msgspec import structs

from broker.wire.job import JobSpec
from broker.wire.model_profile import ModelProfile


class ModelCatalogue:
    """The profiles of all models that groups serve or have served, by name.

    Args:
        profiles: Of the models that are known before any group reports.
        default: Name of the model of jobs that name none; None stands for the first known one.
    """

    def __init__(self, profiles: Iterable[ModelProfile], default: str | None) -> None:
        self._profiles = {profile.name: profile for profile in profiles}
        self._default = default

    def __iter__(self) -> Iterator[ModelProfile]:
        return iter(self._profiles.values())

    @property
    def default(self) -> str | None:
        return self._default or next(iter(self._profiles), None)

    def get(self, name: str | None) -> ModelProfile | None:
        return None if name is None else self._profiles.get(name)

    def put(self, profile: ModelProfile) -> None:
        self._profiles[profile.name] = profile

    def remove(self, name: str) -> None:
        del self._profiles[name]

    def resolve(self, spec: JobSpec) -> JobSpec:
        """Return the parameters of a job with the name of its model, once that is known."""
        if spec.model is not None or self.default is None:
            return spec
        return structs.replace(spec, model=self.default)

    def unknown(self, name: str | None) -> str | None:
        """Return why no job may name a model; None if jobs may, or if no model is known yet."""
        names = dict.fromkeys(filter(None, (self._default, *self._profiles)))
        if name is None or not names or name in names:
            return None
        return f"model is {name}; this server serves {', '.join(names)}"
