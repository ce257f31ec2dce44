"""The log of a process whose standard error is full, fails, or was closed."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from broker.process.log_writer import MAX_WAITING
from tests.running_server import until
from tests.small_disk import fill, small_disk

LIMIT_S = 30.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PREAMBLE = """
import logging, os, sys
from broker.process.log import configure_logging
configure_logging("broker", "text")
log = logging.getLogger("test").info
"""
ECHO = """
for line in sys.stdin:
    log(line.strip())
    print("ok", flush=True)
"""


def start(script: str, stderr: int) -> subprocess.Popen[str]:
    """Start a process that logs to a descriptor."""
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def log_line(process: subprocess.Popen[str], text: str) -> None:
    """Have a process log a text; it continues whatever becomes of the entry."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{text}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "ok\n"


def test_a_reader_that_stands_still_blocks_nothing_and_the_drops_are_told() -> None:
    num_entries = 2 * MAX_WAITING
    process = start(
        f"for n in range({num_entries}): log('entry %d', n)\n"
        "print('done', flush=True)\n"
        "sys.stdin.readline()",
        subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    _, text = process.communicate("\n", timeout=LIMIT_S)
    dropped = re.findall(r"WARNING broker dropped (\d+) log entries: standard error was full", text)
    num_kept = text.count(" INFO broker entry ")
    assert num_kept >= MAX_WAITING
    assert num_kept + sum(map(int, dropped)) == num_entries


def test_a_process_ends_while_nothing_reads_its_log() -> None:
    with start("for n in range(5000): log('entry %d', n)", subprocess.PIPE) as process:
        assert process.wait(LIMIT_S) == 0


def test_the_last_entries_are_written_before_a_process_ends() -> None:
    process = start("for n in range(1000): log('entry %d', n)", subprocess.PIPE)
    _, text = process.communicate(timeout=LIMIT_S)
    assert len(text.splitlines()) == 1000


async def test_a_full_log_disk_loses_entries_and_tells_their_number_once_it_has_room(
    tmp_path: Path,
) -> None:
    path = tmp_path / "disk" / "log"
    with small_disk(tmp_path / "disk", 64) as disk:
        with path.open("ab") as file, start(ECHO, file.fileno()) as process:
            log_line(process, "first")
            await until(lambda: "first" in path.read_text(), LIMIT_S)
            ballast = fill(disk)
            for _ in range(99):
                log_line(process, "many words " * 50)
            # The rest of the file's last page is written; then there is no further one.
            await until(lambda: path.stat().st_size % PAGE_BYTES == 0, LIMIT_S)
            ballast.unlink()
            log_line(process, "last")
            process.communicate(timeout=LIMIT_S)
        text = path.read_text()
    assert text.splitlines()[-1].endswith("INFO broker last")
    failed = re.search(r"WARNING broker (\d+) log entries could not be written: No space", text)
    assert failed, text
    assert text.count(" INFO broker many") - int(failed[1]) <= 99


async def test_after_a_cut_entry_the_log_goes_on_with_a_new_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("ab") as file, start(ECHO, file.fileno()) as process:
        before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100, before[1]))
        for _ in range(3):
            log_line(process, "a text of some forty characters")
        await until(lambda: path.stat().st_size == 100, LIMIT_S)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)
        log_line(process, "last")
        process.communicate(timeout=LIMIT_S)
    lines = path.read_text().splitlines()
    assert any(re.match(r"\S+ \S+ WARNING broker \d log entries could not", line) for line in lines)
    assert re.match(r"\S+ \S+ INFO broker last", lines[-1])


@pytest.mark.parametrize(
    "redirection", [">&- 2>&-", "2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"]
)
def test_a_closed_or_failing_stream_ends_nothing_and_is_no_other_file(
    tmp_path: Path, redirection: str
) -> None:
    """The first file that a program opens would receive its log."""
    path = tmp_path / "first-file"
    script = f"""
import subprocess
from broker.process.standard_streams import open_missing_streams
open_missing_streams()
{PREAMBLE}
file = open({str(path)!r}, "w")
log("an entry")
test = "import os; [os.fstat(fd) for fd in range(3)]"
subprocess.run([sys.executable, "-c", test], check=True)
logging.shutdown()
file.write("content")
file.close()
os._exit(7)
"""
    command = f'exec "{sys.executable}" -c "$SCRIPT" {redirection}'
    ended = subprocess.run(
        command, shell=True, env=os.environ | {"SCRIPT": script}, check=False, timeout=LIMIT_S
    )
    assert ended.returncode == 7
    assert path.read_text() == "content"
