"""Check request bodies against their structs, with error messages made from the field types."""

import codecs
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from broker.process.log import one_line
from broker.wire.errors import ErrorCode
from broker.wire.job import SpecError
from http_front.errors import FieldProblem, FrontError
from http_front.video.allowed_values import allowed, is_list, is_text

_SHOWN_CHARS = 60
_SHOWN_PROBLEMS = 10

Body = TypeVar("Body", bound=msgspec.Struct)
_Fields = Mapping[str, msgspec.structs.FieldInfo]


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
    if b"\0" in body[:4]:
        return ": it seems to be in UTF-16 or UTF-32; send UTF-8"
    try:
        body.decode()
    except UnicodeDecodeError:
        return ": it is not in UTF-8"
    return ""


def check(
    fields: dict[str, object], body_type: type[Body], other_fields: Sequence[str] = ()
) -> Body:
    """Convert fields to a struct. Text may stand for what is none, null for a default.

    Args:
        fields: Names and values as the client sent them.
        body_type: The struct, whose types and ranges are checked.
        other_fields: Further fields of the request, to be named in the error.

    Raises:
        FrontError: If fields are wrong. The message names each, its value and what is allowed.
    """
    known = _fields_of(body_type)
    lists = _lists_of(body_type)
    given = {
        name: _read_list(value) if name in lists else value
        for name, value in fields.items()
        if name not in known or not _stands_for_default(value, known[name])
    }
    try:
        return msgspec.convert(given, body_type, strict=False)
    except msgspec.ValidationError as error:
        problems = list(_wrong_fields(given, known, other_fields))
        problems += _contradictions(given, known, body_type, {each.field for each in problems})
        raise refused_fields(problems) from error


@lru_cache(maxsize=64)  # it evaluates annotations, which costs more than all the rest of a check
def _fields_of(body_type: type[msgspec.Struct]) -> _Fields:
    return {field.name: field for field in msgspec.structs.fields(body_type)}


@lru_cache(maxsize=64)
def _lists_of(body_type: type[msgspec.Struct]) -> frozenset[str]:
    """Return the names of the fields that hold lists."""
    known = _fields_of(body_type).values()
    return frozenset(field.name for field in known if is_list(inspect.type_info(field.type)))


def refused_fields(problems: Sequence[FieldProblem]) -> FrontError:
    """Return the error for one or more wrong fields."""
    message = ". ".join(problem.message for problem in problems[:_SHOWN_PROBLEMS])
    if len(problems) > _SHOWN_PROBLEMS:
        message += f". {len(problems) - _SHOWN_PROBLEMS} more fields are wrong"
    return FrontError(ErrorCode.INVALID_FIELD, message, problems[0].field, problems=tuple(problems))


def _stands_for_default(value: object, field: msgspec.structs.FieldInfo) -> bool:
    # Forms send null as text.
    return value is None or (value == "null" and not is_text(inspect.type_info(field.type)))


def _read_list(value: object) -> object:
    """Return a list that came as JSON text, as in a form; any other value as it is."""
    if isinstance(value, str):
        if not value.strip():
            return []  # as forms send a list without items
        with suppress(msgspec.DecodeError, RecursionError):
            return msgspec.json.decode(value)
    return value


def _wrong_fields(
    given: dict[str, object], known: _Fields, other_fields: Sequence[str]
) -> Iterator[FieldProblem]:
    """Yield what is wrong with each field for itself: unknown, of a wrong value, or missing."""
    for name, value in given.items():
        if name not in known:
            yield _unknown(name, [*known, *other_fields])
        elif (problem := _misfit(name, value, known[name].type)) is not None:
            yield problem
    for name, field in known.items():
        if field.required and name not in given:
            message = f"{name} is missing; it must be {allowed(inspect.type_info(field.type))}"
            yield FieldProblem(field=name, message=message)


def _contradictions(
    given: dict[str, object], known: _Fields, body_type: type[Body], wrong: set[str]
) -> Iterator[FieldProblem]:
    """Yield what the struct itself finds, such as fields that contradict each other."""
    rest = {name: given[name] for name in given if name in known and name not in wrong}
    while True:
        needed = {name: _any_text(field.type) for name, field in known.items() if field.required}
        try:
            msgspec.convert(needed | rest, body_type, strict=False)
            return
        except msgspec.ValidationError as error:
            cause = error.__cause__
            if not isinstance(cause, SpecError) or (wrong and cause.field not in rest):
                return
            yield FieldProblem(field=cause.field, message=one_line(cause.message))
            wrong.add(cause.field)
            if rest.pop(cause.field, None) is None:
                return


def _any_text(field_type: Any) -> str:
    """Return a valid value of a field that a body must have, so that its others can be checked."""
    least: int = msgspec.json.schema(field_type).get("minLength", 0)
    return "x" * max(1, least)


def _unknown(name: str, known: Sequence[str]) -> FieldProblem:
    shown = _short(one_line(name))
    meant = _meant(shown, known)
    advice = f"its fields are {', '.join(known)}" if meant is None else f"did you mean {meant}?"
    message = f'"{shown}" is not a field of this request; {advice}'
    return FieldProblem(field=shown, message=message)


def _meant(name: str, known: Sequence[str]) -> str | None:
    """Return the field that a name most likely stands for; None if it is like none."""
    by_ending = [each for each in known if each.endswith(f"_{name.lower()}")]
    by_letters = {each.lower(): each for each in known}
    close = get_close_matches(name.lower(), by_letters, n=1)
    return next(iter(by_ending + [by_letters[letters] for letters in close]), None)


def _misfit(name: str, value: object, field_type: Any) -> FieldProblem | None:
    try:
        msgspec.convert(value, field_type, strict=False)
    except msgspec.ValidationError as error:
        if isinstance(cause := error.__cause__, SpecError):
            return FieldProblem(field=name, message=one_line(cause.message))
        info = inspect.type_info(field_type)
        message = f"{name} is {_shown(value, info)}; it must be {allowed(info)}"
        return FieldProblem(field=name, message=message)
    return None


def _shown(value: object, info: inspect.Type) -> str:
    """Return a value as short JSON on one line; a string with its length, a number without quotes.

    In a form every value is text, so a number is shown as 500, not as "500" (3 characters).
    """
    if isinstance(value, str) and not is_text(info):
        return _short(one_line(value))
    text = _short(one_line(msgspec.json.encode(value).decode()))
    return f"{text} ({len(value)} characters)" if isinstance(value, str) else text


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
