"""Reading a request makes no garbage that waits for a full collection."""

import gc

from http_front.video.field_check import check
from http_front.video.schema import JobRef
from http_front.video.submission import media_type_of


def test_reading_a_request_leaves_no_reference_cycles() -> None:
    """Three classes for each form were most of what grew in the front for minutes."""
    _read("warm up the caches")
    gc.collect()
    gc.disable()
    try:
        for number in range(10):
            _read(str(number))
        assert gc.collect() == 0
    finally:
        gc.enable()


def _read(boundary: str) -> None:
    headers = {"Content-Type": f'Multipart/Form-Data; boundary="{boundary}"'}
    assert media_type_of(headers) == "multipart/form-data"
    check({"requestId": "0" * 32}, JobRef)
