"""The verdict of the soak: a table of what each process and state directory did."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tests.soak.growth import (
    DESCRIPTORS,
    MB,
    MEMORY,
    RANK_MEMORY,
    THREADS,
    Growth,
    Limit,
    Series,
    judge,
)
from tests.soak.load import Load
from tests.soak.samples import Samples

HISTORY_BYTES = 600.0
"""The journal keeps the history of a job for days: up to so many bytes more for each job."""
WRITE_AHEAD_BYTES = 5e6
"""The journal's write-ahead log reaches its full size once."""
MUST_BE_JUDGED = {
    *("stub: launcher", "stub: broker", "stub, 2nd front: front"),
    *("real: broker", "real: front", "real: rank"),
}
"""They live through the whole run: if one is missing, it was not measured."""
EXPECTED = {"200", "202", "404", "409", "429", "503", "cut"}


class Row(NamedTuple):
    """What one quantity did in the judged half."""

    name: str
    quantity: str
    growth: Growth
    unit: float = 1.0

    def __str__(self) -> str:
        typical, total, per_hour, allowed = (value / self.unit for value in self.growth)
        mark = "GROWS" if self.growth.is_leak else ""
        return (
            f"{self.name:36} {self.quantity:12} {typical:9.1f} {total:+9.2f} {per_hour:+9.2f} "
            f"{allowed:9.2f}  {mark}"
        ).rstrip()


_HEAD = (
    f"{'second half of the run':36} {'':12} {'typical':>9} {'growth':>9} {'per hour':>9} "
    f"{'allowed':>9}"
)


def print_verdict(samples: Samples, loads: Mapping[str, Load], run_s: float) -> bool:
    """Print the table; return whether all is flat and every answer was expected."""
    rows = [*_process_rows(samples, run_s), *_folder_rows(samples, loads, run_s)]
    lives = Counter(f"{process.server}: {process.role}" for process in samples.processes)
    judged = Counter(row.name.rpartition(" ")[0] for row in rows if row.quantity == "threads")
    _print(_HEAD, *rows)
    for name, num_lives in (lives - judged).items():
        _print(f"{name}: {num_lives} that began or ended in the second half are not judged")
    for name, load in loads.items():
        _print(f"{name}: {load.summary}")
    grown = [f"{row.name} grows: {row.quantity}" for row in rows if row.growth.is_leak]
    failed = [f"{name}: unexpected answers" for name in loads if not _is_served(loads[name])]
    failed += [f"{name} was not measured" for name in sorted(MUST_BE_JUDGED - judged.keys())]
    _print(*(grown + failed or ["nothing grows"]))
    return not grown + failed


def _process_rows(samples: Samples, run_s: float) -> Iterator[Row]:
    for process, measured in samples.processes.items():
        name = f"{process.server}: {process.role} {process.pid}"
        memory = RANK_MEMORY if process.role == "rank" else MEMORY
        for quantity, unit, limit, values in (
            ("memory MB", MB, memory, [sample.memory_bytes for _, sample in measured]),
            ("descriptors", 1, DESCRIPTORS, [sample.num_descriptors for _, sample in measured]),
            ("threads", 1, THREADS, [sample.num_threads for _, sample in measured]),
        ):
            times = [at_s for at_s, _ in measured]
            growth = judge(list(zip(times, values, strict=True)), run_s, limit)
            if growth is not None:
                yield Row(name, quantity, growth, unit)


def _folder_rows(samples: Samples, loads: Mapping[str, Load], run_s: float) -> Iterator[Row]:
    for server, load in loads.items():
        history = Limit(load.num_jobs / run_s * 3600 * HISTORY_BYTES, WRITE_AHEAD_BYTES)
        files, journal = samples.files[server], samples.journal[server]
        for quantity, unit, limit, series in (
            ("files", 1.0, _files_limit(files), files),
            ("journal MB", MB, history, journal),
        ):
            growth = judge(series, run_s, limit)
            assert growth is not None, "the state directory is there from the start to the end"
            yield Row(server, quantity, growth, unit)


def _files_limit(files: Series) -> Limit:
    # As many as jobs that have not expired, a number that varies by chance.
    return Limit(per_hour=0, least=20 + 0.1 * max(number for _, number in files))


def _is_served(load: Load) -> bool:
    return not load.num_slow and {answer.split()[-1] for answer in load.answers} <= EXPECTED


def _print(*lines: object) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()
