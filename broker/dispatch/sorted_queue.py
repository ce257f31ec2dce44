"""Names in a sorted order, with positions: no question costs more because more names wait."""

import bisect
from collections.abc import Iterator
from itertools import chain

_CHUNK_SIZE = 2048

SortKey = tuple[float, int]
"""What a queue is ordered by: a time, and among equal times a number."""
Entry = tuple[SortKey, str]
"""Queues that hold the same entry share it: ten thousand waiting jobs are in three queues each."""


class SortedQueue:
    """Names by their sort keys, the smallest first.

    One sorted list, cut into chunks: a change moves the entries of one chunk only, and a position
    is counted by the lengths of the chunks before it.
    """

    def __init__(self) -> None:
        self._chunks: list[list[Entry]] = []
        self._length = 0
        self.num_moves = 0
        """Rises whenever positions may have changed."""

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[str]:
        return (name for _, name in chain.from_iterable(self._chunks))

    def last(self) -> Entry | None:
        return self._chunks[-1][-1] if self._chunks else None

    def add(self, entry: Entry) -> None:
        self._length += 1
        if not self._chunks:
            self._chunks.append([entry])
            return
        index = self._chunk_of(entry)
        chunk = self._chunks[index]
        if entry < self._chunks[-1][-1]:
            self.num_moves += 1
        bisect.insort(chunk, entry)
        if len(chunk) > 2 * _CHUNK_SIZE:
            self._chunks[index : index + 1] = [chunk[:_CHUNK_SIZE], chunk[_CHUNK_SIZE:]]

    def remove(self, entry: Entry) -> None:
        index = self._chunk_of(entry)
        chunk = self._chunks[index]
        del chunk[bisect.bisect_left(chunk, entry)]
        if not chunk:
            del self._chunks[index]
        self._length -= 1
        self.num_moves += 1

    def num_before(self, entry: Entry) -> int:
        index = self._chunk_of(entry)
        before = sum(map(len, self._chunks[:index]))
        return before + bisect.bisect_left(self._chunks[index], entry)

    def _chunk_of(self, entry: Entry) -> int:
        """Return the index of the chunk that holds an entry, or would."""
        return max(0, bisect.bisect_right(self._chunks, entry, key=_first_of) - 1)


def _first_of(chunk: list[Entry]) -> Entry:
    return chunk[0]
