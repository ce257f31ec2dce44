"""`wan keys`, run as an operator runs it."""

import asyncio
import contextlib
import json
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from http_front.access.keys import ApiKey, KeyRing, Limits, lock_key_file, read_keys, write_keys
from tests.running_server import until


def wan_keys(*words: str, file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launcher.wan", "keys", *words, "--file", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_is_shown_once_and_only_its_hash_is_kept(file: Path) -> None:
    added = wan_keys("add", "ann", "--admin", "--queue-share", "3", file=file)
    text = added.stdout.strip()
    assert added.returncode == 0
    assert len(text) > 40
    assert text not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    key = KeyRing(file).find(text)
    assert key is not None
    assert (key.name, key.admin, key.limits) == ("ann", True, Limits(queue_share=3))
    assert {path.name for path in file.parent.iterdir()} == {"keys.json", "keys.json.lock"}


async def test_two_keys_added_at_the_same_time_are_both_kept(file: Path) -> None:
    command = [sys.executable, "-m", "launcher.wan", "keys", "add", "ann", "--file", str(file)]
    with lock_key_file(file):
        adding = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
        lock = str(file.with_name("keys.json.lock"))
        await until(lambda: adding.returncode is not None or lock in open_files(adding.pid), 60)
        write_keys(file, [ApiKey(name="bob", sha256="0" * 64)])
    assert await asyncio.wait_for(adding.wait(), 60) == 0
    assert [key.name for key in read_keys(file)] == ["bob", "ann"]


def open_files(pid: int) -> list[str]:
    found = []
    with contextlib.suppress(OSError):  # the process may end meanwhile
        found += [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return found


def test_keys_are_listed_without_their_hashes_and_removed_by_name(file: Path) -> None:
    text = wan_keys("add", "ann", file=file).stdout.strip()
    wan_keys("add", "bob", file=file)
    listed = wan_keys("list", file=file).stdout
    assert [line.split()[0] for line in listed.splitlines()] == ["ann", "bob"]
    assert "sha256" not in listed
    assert wan_keys("remove", "ann", file=file).returncode == 0
    assert KeyRing(file).find(text) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("add", "bob"), "already has a key named bob; remove it first"),
        (("add", "a/b"), "the key is not valid"),
        (("add", "ann", "--queue-share", "0"), "the key is not valid"),
        (("remove", "ann"), "has no key named ann"),
    ],
)
def test_an_impossible_change_is_refused_and_changes_nothing(
    file: Path, words: tuple[str, ...], message: str
) -> None:
    wan_keys("add", "bob", file=file)
    before = file.read_bytes()
    refused = wan_keys(*words, file=file)
    assert refused.returncode == 2
    assert message in " ".join(refused.stderr.split())
    assert "Traceback" not in refused.stderr
    assert file.read_bytes() == before


def test_a_missing_file_is_named(file: Path) -> None:
    refused = wan_keys("list", file=file)
    assert (refused.returncode, str(file) in refused.stderr) == (2, True)


def test_with_json_the_output_is_json(file: Path) -> None:
    added = json.loads(wan_keys("add", "ann", "--json", file=file).stdout)
    assert (added["name"], KeyRing(file).find(added["key"]) is not None) == ("ann", True)
    listed = json.loads(wan_keys("list", "--json", file=file).stdout)
    limits = msgspec.to_builtins(Limits())
    assert listed == {"keys": [{"name": "ann", "admin": False, "limits": limits}]}
    refused = wan_keys("add", "ann", "--json", file=file)
    assert json.loads(refused.stderr)["error"]["code"] == "file"
    removed = wan_keys("remove", "ann", "--json", file=file)
    assert (json.loads(removed.stdout), removed.stderr) == ({"removed": "ann"}, "")
