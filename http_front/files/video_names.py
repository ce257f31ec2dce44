"""What a downloaded video is called: its prompt and seed, rather than its id."""

import re
import unicodedata
from collections import OrderedDict
from urllib.parse import quote

from broker.wire.requests import GetJob
from http_front.broker_client import BrokerClient
from http_front.errors import FrontError

MAX_KNOWN = 1_000
MAX_CHARS = 60
"""Of the prompt. File systems allow 255 bytes, and a Chinese character has three."""
_ASK_LIMIT_S = 0.5
_UNSAFE = re.compile(r'[\\/:*?"<>|%\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]+')
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9 ._()-]+")


class VideoNames:
    """Finds the file names of videos, and remembers those that were asked for last.

    A browser asks for a video in many ranges, so that most names are known.

    Args:
        broker: Knows prompt and seed of a job.
    """

    def __init__(self, broker: BrokerClient) -> None:
        self._broker = broker
        self._known: OrderedDict[str, str] = OrderedDict()

    async def disposition(self, job_id: str) -> str | None:
        """Return the value of `Content-Disposition`; None while the broker does not answer."""
        if job_id not in self._known:
            try:
                found = await self._broker.ask(GetJob(job_id=job_id), _ASK_LIMIT_S)
            except FrontError:
                return None
            if found.job.spec is None:
                return None
            self._known[job_id] = content_disposition(found.job.spec.prompt, found.job.spec.seed)
        self._known.move_to_end(job_id)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return self._known[job_id]


def content_disposition(prompt: str, seed: int | None) -> str:
    """Return a header value that leaves the video in the page, and names it when it is saved.

    Source:
        RFC 6266: `filename*` in UTF-8, and `filename` in ASCII for clients that lack the former.
    """
    ending = ".mp4" if seed is None else f" (seed {seed}).mp4"
    title = _title(prompt)
    return (
        f'inline; filename="{_plain(title)}{ending}"; '
        f"filename*=UTF-8''{quote(title + ending, safe='')}"
    )


def _title(prompt: str) -> str:
    """Return the beginning of a prompt, up to the end of a word, as every file system takes it."""
    text = _UNSAFE.sub(" ", unicodedata.normalize("NFC", prompt)).strip(" .")
    if len(text) > MAX_CHARS:
        start, _, _ = text[: MAX_CHARS + 1].rpartition(" ")
        text = (start or text[:MAX_CHARS]).strip(" .")
    return text or "video"


def _plain(title: str) -> str:
    decomposed = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    return _NOT_PLAIN.sub("", decomposed).strip(" .") or "video"
