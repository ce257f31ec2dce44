"""Describes the values that a field's type allows, in words for the error messages."""

from msgspec import inspect

WORDS = "allowed"
"""Key in the `extra` of a field's `Meta`: its words where its constraints would not explain it."""
REASON = "reason"
"""Likewise: why the values are limited to these."""


def allowed(info: inspect.Type) -> str:
    """Describe the values that a type allows."""
    match info:
        case inspect.Metadata(type=inner, extra=extra):
            words = extra or {}
            reason = f" ({words[REASON]})" if REASON in words else ""
            described: str = words.get(WORDS) or allowed(inner)
            return described + reason
        case inspect.UnionType(types=options):
            return " or ".join(allowed(option) for option in options)
        case inspect.StrType():
            return _allowed_text(info)
        case inspect.IntType() | inspect.FloatType():
            return _allowed_number(info)
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(str(value) for value in values)
        case inspect.BoolType():
            return "true or false"
        case inspect.ListType() | inspect.VarTupleType():
            return _allowed_list(info)
        case _:  # None, the only other type in a body
            return "null"


def is_text(info: inspect.Type) -> bool:
    """Return whether the type allows a string, other than one of a few names."""
    match info:
        case inspect.Metadata(type=inner):
            return is_text(inner)
        case inspect.UnionType(types=options):
            return any(map(is_text, options))
        case _:
            return isinstance(info, inspect.StrType)


def is_list(info: inspect.Type) -> bool:
    match info:
        case inspect.Metadata(type=inner):
            return is_list(inner)
        case _:
            return isinstance(info, inspect.ListType | inspect.VarTupleType)


def _allowed_number(info: inspect.IntType | inspect.FloatType) -> str:
    if info.ge is not None and info.ge == info.le:
        return f"{info.ge}"
    if isinstance(info, inspect.IntType):
        return f"a whole number from {info.ge} to {info.le}"
    least = f"above {info.gt}" if info.ge is None else f"from {info.ge}"
    return f"a number {least} to {info.le}"


def _allowed_list(info: inspect.ListType | inspect.VarTupleType) -> str:
    if not isinstance(info.item_type, inspect.StructType):
        return "a list"
    parts = ", ".join(f"{part.name} ({allowed(part.type)})" for part in info.item_type.fields)
    most = "" if info.max_length is None else f"at most {info.max_length} "
    return f"a list of {most}objects with {parts}"


def _allowed_text(info: inspect.StrType) -> str:
    if info.max_length is None:
        least = info.min_length
        return f"a string of at least {least} characters" if least else "a string"
    return f"a string of {info.min_length or 0} to {info.max_length} characters"
