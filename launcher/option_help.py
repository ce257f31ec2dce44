"""How `launch.py --help` shows the options: in groups, each with its allowed values."""

import argparse
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, Literal, NoReturn, get_args, get_origin

import msgspec
from msgspec import Meta

from launcher.durations import show_duration
from launcher.options import IS_DURATION, Options, OptionsError

_GROUPS = {
    "basic": "model_path nproc demo host port state_dir log_format access_log",
    "model": "model default_model transformer distilled quantize quantize_skip lora loras device "
    "attention vae_dtype offload",
    "parallel": "groups cfg_size ulysses_size dit_fsdp t5_fsdp vae_parallel",
    "limits": "max_queue min_prompt_chars max_prompt_chars priority_step checkpoint_steps job_ttl "
    "keep_limit min_free_space drain_timeout startup_timeout step_timeout",
    "network": "api_keys insecure allowed_hosts cors_origins image_hosts allow_private_images "
    "allow_private_callbacks realtime_front",
    "more machines": "listen join name curve_keys store store_downloads engine ray_address",
}
GROUP_OF = {name: title for title, names in _GROUPS.items() for name in names.split()}
_LARGEST_SHOWN = 100_000


class OptionParser(argparse.ArgumentParser):
    """Adds each option to its group, and suggests what a mistyped one should be called.

    Raises:
        OptionsError: If an argument is unknown or lacks its value.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._titled = {title: self.add_argument_group(title) for title in _GROUPS}

    def add_option(self, field: msgspec.structs.FieldInfo) -> None:
        group: argparse._ActionsContainer = self._titled.get(GROUP_OF.get(field.name, ""), self)
        flag = f"--{field.name.replace('_', '-')}"
        settings: dict[str, Any] = {"dest": field.name, "help": _help(field).replace("%", "%%")}
        if field.name == "demo":
            settings |= {"nargs": "?", "metavar": "FAMILY,…"}
        elif is_switch(field):
            settings |= {"action": argparse.BooleanOptionalAction, "default": None}
        elif isinstance(field.default, tuple):
            settings |= {"metavar": "A,B", "action": "append"}
        else:
            settings["metavar"] = "|".join(choices(field.type)) or _metavar(field)
        group.add_argument(flag, **settings)

    def expect_known(self, words: Sequence[str]) -> None:
        """Refuse an unknown option first: else its value would be taken for a role."""
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        for word in words:
            flag = word.partition("=")[0]
            if flag.startswith("--") and flag not in known:
                close = get_close_matches(flag, known, n=1)
                meant = f", did you mean {close[0]}?" if close else ""
                self.error(f"unknown option {flag}{meant}")

    def error(self, message: str) -> NoReturn:
        raise OptionsError(f"{message}; see {self.prog} --help")


def similar(name: str) -> str:
    """Return the question whether an option of another name was meant; nothing if none is close."""
    close = get_close_matches(name, Options.__struct_fields__, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def choices(annotation: Any) -> tuple[str, ...]:
    """Return the texts that an option may be; none if it is not one of a few."""
    parts = get_args(annotation)
    nested = (deep for part in parts for deep in get_args(part))
    literals = [part for part in (annotation, *parts, *nested) if get_origin(part) is Literal]
    return get_args(literals[0]) if literals else ()


def is_switch(field: msgspec.structs.FieldInfo) -> bool:
    # A switch without a default is neither on nor off if it is left out.
    return isinstance(field.default, bool) or bool in get_args(next(iter(get_args(field.type)), 0))


def is_duration(field: msgspec.structs.FieldInfo) -> bool:
    return any(IS_DURATION in (meta.extra or {}) for meta in _metas(field.type))


def _metavar(field: msgspec.structs.FieldInfo) -> str:
    if is_duration(field):
        return "DURATION"
    return "N" if {int, float} & {*_types(field.type)} else "VALUE"


def _help(field: msgspec.structs.FieldInfo) -> str:
    told = [*_limits(field), *_default(field)]
    return _description(field.type) + (f" ({'; '.join(told)})" if told else "")


def _limits(field: msgspec.structs.FieldInfo) -> Iterator[str]:
    for meta in _metas(field.type):
        low, high = meta.ge, meta.le
        if low is not None and high is not None and high <= _LARGEST_SHOWN:
            yield f"{low} to {high}"
        elif low:
            yield f"at least {low}"
        elif meta.gt is not None:
            yield f"more than {meta.gt}"


def _default(field: msgspec.structs.FieldInfo) -> Iterator[str]:
    if field.name == "demo" or field.default in (None, "", ()):
        return
    if is_duration(field):
        yield f"default: {show_duration(field.default)}"
    elif isinstance(field.default, bool):
        yield f"default: {'on' if field.default else 'off'}"
    else:
        default = field.default
        yield f"default: {','.join(default) if isinstance(default, tuple) else default}"


def _description(annotation: Any) -> str:
    for meta in _metas(annotation):
        if meta.description:
            return meta.description
    raise TypeError(f"an option of type {annotation} has no description")


def _metas(annotation: Any) -> list[Meta]:
    # An optional field has its description in one of the alternatives of its type.
    parts = (annotation, *get_args(annotation))
    metas = (meta for part in parts for meta in getattr(part, "__metadata__", ()))
    return [meta for meta in metas if isinstance(meta, Meta)]


def _types(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        if not isinstance(part, Meta):
            yield from _types(part)
