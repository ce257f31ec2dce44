"""Which models this machine serves, under which names, on how many groups: as the options say."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import structs

DemoModel = Literal[
    "wan2.1-i2v",
    "wan2.1-flf2v",
    "wan2.2-i2v-a14b",
    "wan2.2-ti2v-5b",
    "wan2.1-i2v:original",
    "wan2.1-flf2v:original",
    "wan2.2-i2v-a14b:original",
    "wan2.2-ti2v-5b:original",
]
"""A family, in the layout of diffusers or in the original one."""
DEMO_NAME = "demo"
PLAIN_DEMO: DemoModel = "wan2.1-i2v"

_MODEL = re.compile(r"(?:(?P<name>[^=/]+)=)?(?P<path>.+?)(?:@(?P<num_groups>[0-9]+))?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ServedModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that groups of this machine serve."""

    name: str
    """By which jobs name it."""
    path: str = ""
    """Its folder; empty for a demo model, which is built."""
    demo: DemoModel | None = None
    num_groups: int = 1
    is_distilled: bool = False

    def as_options(self) -> dict[str, object]:
        """Return the options of a machine with one group of this model."""
        distilled = (self.name,) if self.is_distilled else ()
        own: dict[str, object]
        if self.demo is not None:
            own = {"model": (), "demo": self.name == DEMO_NAME or (self.demo,)}
        else:
            own = {"model": (f"{self.name}={self.path}@1",), "demo": False}
        return {"model_path": (), "distilled": distilled, **own}


def models_in_folders(paths: Sequence[str], num_groups: int) -> tuple[ServedModel, ...]:
    """Return the models of `--model-path`, each on `--groups` groups."""
    return tuple(
        ServedModel(name=name_of_folder(path), path=path, num_groups=num_groups) for path in paths
    )


def models_on_groups(entries: Sequence[str]) -> tuple[ServedModel, ...]:
    """Return the models of `--model NAME=PATH@GROUPS`.

    Raises:
        ValueError: If an entry has another form.
    """
    return tuple(map(_model_on_groups, entries))


def demo_models(demo: bool | Sequence[DemoModel], num_groups: int) -> tuple[ServedModel, ...]:
    """Return the models of `--demo`, or of `--demo=FAMILY,FAMILY:original`."""
    if isinstance(demo, bool):
        return (ServedModel(name=DEMO_NAME, demo=PLAIN_DEMO, num_groups=num_groups),)
    return tuple(
        # Names have no colon.
        ServedModel(name=model.replace(":", "-"), demo=model, num_groups=num_groups)
        for model in demo
    )


def with_distilled(
    models: Sequence[ServedModel], distilled: Sequence[str]
) -> tuple[ServedModel, ...]:
    """Return the models, those that `--distilled` names marked as such."""
    return tuple(structs.replace(model, is_distilled=model.name in distilled) for model in models)


def check_distilled(models: Sequence[ServedModel], distilled: Sequence[str]) -> None:
    """Check that `--distilled` names models that are served.

    Raises:
        ValueError: If not.
    """
    names = [model.name for model in models]
    unknown = next((name for name in distilled if name not in names), None)
    if unknown is not None:
        raise ValueError(f"distilled has {unknown}; this machine serves {', '.join(names)}")


def check_names(models: Sequence[ServedModel], default: str | None) -> None:
    """Check that no name stands for two models, and that the default is one of them.

    Args:
        models: The models of this machine.
        default: Name of the default model; None if it may be any, or a model that joins.

    Raises:
        ValueError: If not.
    """
    names = [model.name for model in models]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            f"two models are called {twice}; give each its own name: --model NAME=PATH@GROUPS"
        )
    if default is not None and default not in names:
        raise ValueError(f"default_model is {default}; the server has {', '.join(names)}")


def name_of_folder(path: str) -> str:
    """Return a name for the model in a folder, made from that of the folder."""
    # ModelScope writes `___` for a dot.
    last = Path(path).name or Path(path).resolve().name
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", last.replace("___", ".")).lstrip("._-")
    return cleaned[:100] or "model"


def _model_on_groups(entry: str) -> ServedModel:
    match = _MODEL.fullmatch(entry)
    if match is None or not _NAME.fullmatch(match["name"] or "model"):
        raise ValueError(
            f"model has {entry!r}; expected NAME=PATH@GROUPS, where NAME has letters, digits, "
            "dots, dashes and underscores, and GROUPS is a number"
        )
    num_groups = int(match["num_groups"] or 1)
    if not 1 <= num_groups <= 1024:
        raise ValueError(f"model has {entry!r}; the number of groups must be from 1 to 1024")
    name = match["name"] or name_of_folder(match["path"])
    return ServedModel(name=name, path=match["path"], num_groups=num_groups)
