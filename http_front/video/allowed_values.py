"""Describes the values that a field's type allows, in words for the error messages."""

from msgspec import inspect

WORDS = "allowed"
"""Key in the `extra` of a field's `Meta`: its words where its constraints would not explain it."""


def allowed(info: inspect.Type) -> str:
    """Describe the values that a type allows."""
    match info:
        case inspect.Metadata(type=inner, extra=extra):
            return extra[WORDS] if extra and WORDS in extra else allowed(inner)
        case inspect.UnionType(types=options):
            return " or ".join(allowed(option) for option in options)
        case inspect.StrType():
            return _allowed_text(info)
        case inspect.IntType(ge=low, le=high):
            return f"{low}" if low == high else f"a whole number from {low} to {high}"
        case inspect.FloatType(gt=above, ge=low, le=high):
            return f"a number {f'above {above}' if low is None else f'from {low}'} to {high}"
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(str(value) for value in values)
        case inspect.BoolType():
            return "true or false"
        case inspect.ListType() | inspect.VarTupleType():
            return "a list"
        case inspect.StructType() | inspect.DictType():
            return "an object"
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


def _allowed_text(info: inspect.StrType) -> str:
    if info.max_length is None:
        least = info.min_length
        return f"a string of at least {least} characters" if least else "a string"
    return f"a string of {info.min_length or 0} to {info.max_length} characters"
