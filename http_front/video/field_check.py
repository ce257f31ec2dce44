"""Check request bodies against their structs, with error messages made from the field types."""

import codecs
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from broker.process.log import one_line
from broker.wire.errors import ErrorCode
from broker.wire.job import SpecError
from http_front.errors import FrontError

_SHOWN_CHARS = 60

Body = TypeVar("Body", bound=msgspec.Struct)


def decode_json(body: bytes) -> dict[str, object]:
    """Return the fields of a JSON object in UTF-8, which may begin with a byte order mark.

    Raises:
        FrontError: If the body is not a JSON object.
    """
    try:
        fields = msgspec.json.decode(body.removeprefix(codecs.BOM_UTF8))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # Invalid bytes raise UnicodeDecodeError, and deep nesting raises RecursionError.
        message = f"the body is not valid JSON{_encoding_note(body)}"
        raise FrontError(ErrorCode.INVALID_BODY, message) from error
    if not isinstance(fields, dict):
        raise FrontError(ErrorCode.INVALID_BODY, "the body must be a JSON object")
    return fields


def _encoding_note(body: bytes) -> str:
    # In UTF-16 and UTF-32, a zero byte belongs to each character of JSON's syntax.
    if b"\0" in body[:4] or body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return ": it seems to be in UTF-16 or UTF-32; send UTF-8"
    try:
        body.decode()
    except UnicodeDecodeError:
        return ": it is not in UTF-8"
    return ""


def check(fields: dict[str, object], body_type: type[Body], *, lax: bool = False) -> Body:
    """Convert fields to a struct.

    Args:
        fields: Names and values as the client sent them.
        body_type: The struct, whose types and ranges are checked.
        lax: Whether strings may stand for numbers, booleans and, in JSON, lists, as in a form.

    Raises:
        FrontError: If a field is wrong. The message names the field, its value and what is
            allowed.
    """
    if lax:
        fields = _with_lists(fields, body_type)
    try:
        return msgspec.convert(fields, body_type, strict=not lax)
    except msgspec.ValidationError as error:
        raise _explain(error, fields, body_type, lax) from error


def _with_lists(fields: dict[str, object], body_type: type[msgspec.Struct]) -> dict[str, object]:
    types = {field.name: field.type for field in msgspec.structs.fields(body_type)}
    return {
        name: _read_list(value)
        if isinstance(value, str) and name in types and _is_list(inspect.type_info(types[name]))
        else value
        for name, value in fields.items()
    }


def _read_list(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text  # to be refused as it is


def _is_list(info: inspect.Type) -> bool:
    match info:
        case inspect.Metadata(type=inner):
            return _is_list(inner)
        case inspect.UnionType(types=options):
            return any(map(_is_list, options))
        case _:
            return isinstance(info, inspect.VarTupleType)


def _explain(
    error: msgspec.ValidationError, fields: dict[str, object], body_type: type[Body], lax: bool
) -> FrontError:
    cause = error.__cause__
    if isinstance(cause, SpecError):
        return FrontError(ErrorCode.INVALID_FIELD, one_line(cause.message), cause.field)
    known = {field.name: field for field in msgspec.structs.fields(body_type)}
    for name, value in fields.items():
        if name not in known:
            return _unknown(name, list(known))
        if not _fits(value, known[name].type, lax):
            info = inspect.type_info(known[name].type)
            # In a form every value is text. Show a number as 500, not as "500" (3 characters).
            shown = _short(one_line(str(value))) if lax and not _is_text(info) else _shown(value)
            message = f"{name} is {shown}; it must be {_allowed(info)}"
            return FrontError(ErrorCode.INVALID_FIELD, message, name)
    missing = next(name for name, field in known.items() if field.required and name not in fields)
    allowed = _allowed(inspect.type_info(known[missing].type))
    return FrontError(
        ErrorCode.INVALID_FIELD, f"{missing} is missing; it must be {allowed}", missing
    )


def _unknown(name: str, known: list[str]) -> FrontError:
    shown = _short(one_line(name))
    message = f'"{shown}" is not a field of this request; its fields are {", ".join(known)}'
    return FrontError(ErrorCode.INVALID_FIELD, message, shown)


def _fits(value: object, field_type: Any, lax: bool) -> bool:
    try:
        msgspec.convert(value, field_type, strict=not lax)
    except msgspec.ValidationError:
        return False
    return True


def _is_text(info: inspect.Type) -> bool:
    match info:
        case inspect.Metadata(type=inner):
            return _is_text(inner)
        case inspect.UnionType(types=options):
            return any(map(_is_text, options))
        case _:
            return isinstance(info, inspect.StrType)


def _shown(value: object) -> str:
    """Return a value as short JSON on one line, with the length of a string."""
    text = _short(one_line(msgspec.json.encode(value).decode()))
    return f"{text} ({len(value)} characters)" if isinstance(value, str) else text


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"


def _allowed(info: inspect.Type) -> str:
    """Describe the values that a type allows."""
    match info:
        case inspect.Metadata(type=inner):
            return _allowed(inner)
        case inspect.UnionType(types=options):
            return " or ".join(_allowed(option) for option in options)
        case inspect.StrType():
            return _allowed_text(info)
        case inspect.IntType(ge=low, le=high):
            return f"a whole number from {low} to {high}"
        case inspect.FloatType(gt=above, ge=low, le=high):
            return f"a number {f'above {above}' if low is None else f'from {low}'} to {high}"
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(str(value) for value in values)
        case inspect.BoolType():
            return "true or false"
        case inspect.VarTupleType(item_type=inspect.StructType(fields=parts), max_length=most):
            named = ", ".join(f"{part.name} ({_allowed(part.type)})" for part in parts)
            return f"a list of at most {most} objects with {named}"
        case _:  # None, the only other type in a body
            return "null"


def _allowed_text(info: inspect.StrType) -> str:
    if info.pattern is not None:
        return f"a string that matches {info.pattern}"
    if info.max_length is None:
        least = info.min_length
        return f"a string of at least {least} characters" if least else "a string"
    return f"a string of {info.min_length or 0} to {info.max_length} characters"
