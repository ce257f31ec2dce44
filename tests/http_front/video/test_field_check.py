"""The check of a body by its struct's types alone, also of types that no body has yet."""

from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from broker.wire.job import SpecError
from http_front.errors import FrontError
from http_front.video.field_check import check


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern="^[a-z]+$")]
    strength: Annotated[float, Meta(ge=-1.0, le=1.0)] = 1.0

    def __post_init__(self) -> None:
        if self.name == "no":
            raise SpecError("parts", "parts names no")


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    parts: Annotated[tuple[Part, ...], Meta(max_length=2)] = ()
    fixed: Annotated[float, Meta(ge=1.0, le=1.0, extra={"reason": "it is distilled"})] = 1.0
    note: str | None = None
    first: int = 5
    last: int = 5

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise SpecError("last", "last is less than first")


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"parts": [{"name": "a", "strength": "0.5"}]}, (Part(name="a", strength=0.5),)),
        ({"parts": '[{"name": "a"}]'}, (Part(name="a"),)),
        ({"parts": None, "fixed": "1"}, ()),
        ({"parts": "null"}, ()),
        ({"parts": ""}, ()),
    ],
)
def test_a_list_may_be_json_text(fields: dict[str, Any], parts: tuple[Part, ...]) -> None:
    assert check(fields, Body).parts == parts


def test_null_in_a_form_is_text_where_text_is_meant() -> None:
    assert check({"note": "null", "first": "null"}, Body) == Body(note="null")


LIST = "a list of at most 2 objects with name (a string), strength (a number from -1.0 to 1.0)"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parts": "["}, f"parts is [; it must be {LIST}"),
        ({"parts": [{"name": "A"}]}, f'parts is [{{"name":"A"}}]; it must be {LIST}'),
        ({"parts": [{"name": "no"}]}, "parts names no"),
        ({"fixed": 2}, "fixed is 2; it must be 1.0 (it is distilled)"),
        ({"fixed": "9" * 99}, f"fixed is {'9' * 60}…; it must be 1.0 (it is distilled)"),
        ({"parts": "[" * 100_000}, f"parts is {'[' * 60}…; it must be {LIST}"),
    ],
)
def test_a_refusal_describes_what_the_type_allows(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(FrontError) as refusal:
        check(fields, Body)
    assert refusal.value.message == message


@pytest.mark.parametrize(
    "fields",
    [{"first": 9, "last": 3}, {"first": 9, "last": "many"}],
    ids=["both valid", "one of another type"],
)
def test_fields_that_contradict_each_other_are_named_once(fields: dict[str, Any]) -> None:
    assert wrong_fields(fields) == ["last"]


def test_of_many_wrong_fields_the_first_ten_are_described() -> None:
    with pytest.raises(FrontError, match=r'"x9" is not .*\. 2 more fields are wrong$') as refusal:
        check({f"x{number}": 1 for number in range(12)}, Body)
    assert len(refusal.value.problems) == 12


def test_the_name_of_an_unknown_field_is_shown_short_and_on_one_line() -> None:
    (shown,) = wrong_fields({"a\n" * 50: 1})
    assert len(shown) == 61
    assert "\n" not in shown


def wrong_fields(fields: dict[str, Any]) -> list[str]:
    with pytest.raises(FrontError) as refusal:
        check(fields, Body)
    return [problem.field for problem in refusal.value.problems]
