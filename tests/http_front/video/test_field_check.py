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


LIST = "a list of at most 2 objects with name (a string), strength (a number from -1.0 to 1.0)"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parts": "["}, f"parts is [; it must be {LIST}"),
        ({"parts": [{"name": "A"}]}, f'parts is [{{"name":"A"}}]; it must be {LIST}'),
        ({"parts": [{"name": "no"}]}, "parts names no"),
        ({"fixed": 2}, "fixed is 2; it must be 1.0 (it is distilled)"),
    ],
)
def test_a_refusal_describes_what_the_type_allows(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(FrontError) as refusal:
        check(fields, Body)
    assert refusal.value.message == message
