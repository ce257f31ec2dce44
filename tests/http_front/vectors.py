"""The bad inputs in `tests/data/bad_inputs.json`, and the check of their responses."""

import base64
import gzip
import re
from pathlib import Path
from typing import Any

import msgspec

DATA = Path(__file__).parent.parent / "data"
IMAGE_URL = "http://images.example.com/cat.png"

_REPEAT = re.compile(r"\{\{repeat:(.*?):(\d+)\}\}", re.DOTALL)
_INTERNALS = re.compile(r"Traceback|File \"|\.py\b|0x[0-9a-f]{6}|/tmp/|/inputs/|Error\(")


class Case(msgspec.Struct, frozen=True):
    id: str
    group: str
    form: str
    input: str
    expect: str

    @property
    def may_be_accepted(self) -> bool:
        """Whether the server may accept the input as well as refuse it."""
        return not re.match(r"(The URL|Cut|[^.]*)?\bRefused with", self.expect) or bool(
            re.match(r"Refused \(or accepted|Refused with 4..(, or| or taken)", self.expect)
        )

    @property
    def must_be_accepted(self) -> bool:
        """Whether the server must accept the input."""
        return self.expect.startswith("Accepted.") or self.expect.startswith("Accepted:")

    @property
    def text(self) -> str:
        """The input with its repeats expanded."""
        return _REPEAT.sub(lambda found: found[1] * int(found[2]), self.input)

    @property
    def body(self) -> bytes:
        """The input as a request body."""
        if self.form.endswith("body-base64"):
            return base64.b64decode(self.input).replace(b"{{IMAGE}}", IMAGE_URL.encode())
        return self.text.replace("{{IMAGE}}", IMAGE_URL).encode()

    @property
    def file(self) -> bytes:
        """The input as an image file."""
        data = base64.b64decode(self.input)
        return gzip.decompress(data) if self.form == "file-gzip-base64" else data


class _Vectors(msgspec.Struct):
    valid_body: str
    good_picture: dict[str, str]
    cases: list[Case]


_VECTORS = msgspec.json.decode((DATA / "bad_inputs.json").read_bytes(), type=_Vectors)
GOOD_PICTURE = base64.b64decode(_VECTORS.good_picture["input"])
VALID_BODY = _VECTORS.valid_body.replace("{{IMAGE}}", IMAGE_URL)


def cases(group: str, *forms: str) -> list[Case]:
    """Return the cases of a group in one of the forms."""
    found = [case for case in _VECTORS.cases if case.group == group and case.form in forms]
    assert found, (group, forms)
    return found


def check_answer(case: Case, status: int, answer: Any) -> None:
    """Check the response to a bad input: the rules for all of them, then those of the case."""
    assert status < 500, (case.id, answer)
    if status >= 400:
        assert set(answer["error"]) - {"fields"} == {"code", "message", "field"}
        assert answer["error"]["message"].isprintable()
        assert not _INTERNALS.search(answer["error"]["message"]), answer
    if case.must_be_accepted:
        assert status == 202, answer
    elif not case.may_be_accepted:
        assert 400 <= status < 500, answer
