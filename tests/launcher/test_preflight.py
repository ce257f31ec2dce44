import contextlib
import fcntl
import json
import logging
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from http_front.access.keys import write_keys
from launcher.helper import read_device_report
from launcher.model_check import check_attention, check_models, check_split
from launcher.options import Options
from launcher.preflight import (
    Folders,
    StartError,
    check_access,
    check_device,
    check_realtime_front,
    listen,
    lock_state,
    prepare_folders,
)
from ranks.model_files.components import WEIGHTED
from tests.free_port import free_port
from tests.realtime_front import may_use_realtime_priority
from tests.small_disk import small_disk, use_up_inodes
from tests.stub_model import make_stub_model, write_weights

LIMIT_S = 5.0


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    folders = Folders.under(str(tmp_path))
    prepare_folders(folders)
    return folders


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_stub_model(tmp_path / "model")


_ORDINARY_USER = """
import os, resource
from launcher.options import Options
from launcher.preflight import StartError, check_realtime_front
resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
if os.getuid() == 0:
    os.setuid(65534)
try:
    check_realtime_front(Options(realtime_front=True))
except StartError as error:
    print(error)
"""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.com"])
def test_other_machines_need_keys_unless_insecure_is_set(host: str, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=f"--host {host} .*--api-keys.*--insecure"):
        check_access(Options(host=host))
    write_keys(tmp_path / "keys", [])
    check_access(Options(host=host, api_keys=str(tmp_path / "keys")))
    check_access(Options(host=host, insecure=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_no_keys_and_the_log_says_so(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    check_access(Options(host=host))
    assert f"no API keys: the server listens on {host}, for this machine only" in caplog.text


def test_a_user_without_real_time_priority_sees_what_it_requires() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ORDINARY_USER], capture_output=True, text=True, check=False
    )
    assert done.stdout == (
        "--realtime-front: Operation not permitted; it requires root, `ulimit -r 1`, LimitRTPRIO=1 "
        "in systemd, or --cap-add=SYS_NICE for a container\n"
    ), done.stderr
    check_realtime_front(Options())


@pytest.mark.skipif(
    not may_use_realtime_priority(), reason="this user may not have real-time priority"
)
def test_the_check_of_real_time_priority_leaves_the_launcher_without_it() -> None:
    check_realtime_front(Options(realtime_front=True))
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


@pytest.mark.parametrize("content", [None, "{", '{"keys": [{"name": "a b"}]}', "\udc80"])
def test_an_unusable_file_of_keys_is_named(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(StartError, match=f"--api-keys {file}"):
        check_access(Options(api_keys=str(file)))


def find_model(folder: Path, folders: Folders, nproc: int = 8) -> Path:
    (found,) = check_models(Options(model_path=(str(folder),), nproc=nproc), folders)
    return found.place


def test_a_complete_model_folder_is_accepted(model: Path, folders: Folders) -> None:
    assert find_model(model, folders) == model


def test_a_missing_model_folder_is_named_and_the_demo_mentioned(folders: Folders) -> None:
    with pytest.raises(StartError, match=r"model folder /nowhere does not exist.*--demo"):
        find_model(Path("/nowhere"), folders)


@pytest.mark.parametrize("part", ["tokenizer", "image_processor", *WEIGHTED["wan2.1-i2v"]])
def test_a_missing_part_of_the_model_is_named(model: Path, folders: Folders, part: str) -> None:
    shutil.rmtree(model / part)
    with pytest.raises(StartError, match=rf"is incomplete; missing: .*{part}/.*--demo"):
        find_model(model, folders)


def test_a_missing_shard_of_the_weights_is_named(model: Path, folders: Folders) -> None:
    index = model / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    write_weights(model / "transformer" / "one.safetensors", {"a": "F32"})
    with pytest.raises(StartError, match=r"missing: transformer/two\.safetensors;"):
        find_model(model, folders)


def test_ranks_that_the_heads_cannot_be_split_over_are_refused(
    model: Path, folders: Folders
) -> None:
    message = r"--nproc is 3: the model's 40 attention heads .* possible: 1, 2, 4, 5, 8, 10"
    with pytest.raises(StartError, match=message):
        find_model(model, folders, nproc=3)
    check_split(Options(nproc=16), 40)  # CFG 2 times Ulysses 8


def test_a_default_ulysses_size_that_does_not_divide_the_heads_is_refused() -> None:
    with pytest.raises(
        StartError, match=r"--ulysses-size is 16: .* 40 .*; possible: 1, 2, 4, 5, 8"
    ):
        check_split(Options(nproc=16, ulysses_size=16), 40)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"port {port} on 127.0.0.1 is taken"):
            listen(Options(port=port))


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(StartError, match=r"cannot listen on 192\.0\.2\.1 port 0"):
        listen(Options(host="192.0.2.1", port=0))


def reachable(listeners: list[socket.socket], addresses: list[str]) -> list[str]:
    """Return the addresses at which a client reaches one of the listeners."""
    port = listeners[0].getsockname()[1]
    reached = []
    for address in addresses:
        with contextlib.suppress(OSError), socket.create_connection((address, port), LIMIT_S):
            reached.append(address)
    for listener in listeners:
        listener.close()
    return reached


needs_ipv6 = pytest.mark.skipif(not Path("/proc/net/if_inet6").is_file(), reason="has no IPv6")


@needs_ipv6
@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("localhost", ["127.0.0.1", "::1"]),
        ("::", ["127.0.0.1", "::1"]),
        ("::1", ["::1"]),
        ("127.0.0.1", ["127.0.0.1"]),
        ("0.0.0.0", ["127.0.0.1"]),
    ],
)
def test_a_host_is_reached_at_each_of_its_addresses(host: str, reached: list[str]) -> None:
    """Browsers and resolvers differ in which address of `localhost` they try."""
    listeners = listen(Options(host=host, port=0, insecure=True))
    assert reachable(listeners, ["127.0.0.1", "::1"]) == reached


@needs_ipv6
def test_a_port_that_is_taken_on_the_second_address_is_named_and_the_first_given_back() -> None:
    port = free_port()  # the system might give one that a connection has on the first address
    with socket.create_server(("::1", port), family=socket.AF_INET6):
        with pytest.raises(StartError, match=f"port {port} on localhost is taken"):
            listen(Options(host="localhost", port=port))
        socket.create_server(("127.0.0.1", port)).close()


def test_a_state_directory_whose_lock_was_removed_is_still_in_use(folders: Folders) -> None:
    """A second launcher would remove files of the first one and take over its sockets."""
    with (folders.state / "broker.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StartError, match=r"another server whose launch\.lock was removed"):
            lock_state(folders)
    os.close(lock_state(folders))


def test_a_state_directory_in_use_is_named_with_its_owner(folders: Folders) -> None:
    lock_state(folders)
    with pytest.raises(StartError, match=r"is in use by another server, pid \d+"):
        lock_state(folders)


def test_a_path_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="choose a shorter --state-dir"):
        prepare_folders(Folders.under(str(tmp_path / ("long" * 30))))


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match=r"--state-dir .*/file/state: Not a directory"):
        prepare_folders(Folders.under(str(tmp_path / "file" / "state")))


@pytest.mark.parametrize("num_free", range(7))
def test_a_disk_without_free_inodes_is_named(tmp_path: Path, num_free: int) -> None:
    """A start creates seven folders and files; `df` shows free space on such a disk."""
    with small_disk(tmp_path / "disk", 1024, num_inodes=20) as disk:
        use_up_inodes(disk, num_free)
        folders = Folders.under(str(disk / "state"))
        with pytest.raises(StartError, match="no free inodes"):
            os.close(_prepare_and_lock(folders))


def _prepare_and_lock(folders: Folders) -> int:
    prepare_folders(folders)
    return lock_state(folders)


def test_a_state_directory_that_cannot_be_locked_is_named(folders: Folders) -> None:
    (folders.state / "launch.lock").mkdir()
    with pytest.raises(StartError, match=r"--state-dir .*: launch\.lock: Is a directory"):
        lock_state(folders)


def test_a_new_state_directory_is_private_and_an_old_one_left_as_it_is(tmp_path: Path) -> None:
    new, old = Folders.under(str(tmp_path / "new"), str(tmp_path / "files")), tmp_path / "old"
    old.mkdir(mode=0o755)
    prepare_folders(new)
    prepare_folders(Folders.under(str(old)))
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (new.state, Path(new.store), old)]
    assert modes == [0o700, 0o700, 0o755]


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(StartError, match="--device npu: "):
        check_device(Options(device="npu"))


def test_attention_that_the_devices_cannot_compute_is_refused_before_any_rank_starts() -> None:
    check_attention(Options(device="cpu"))
    message = "--attention sage: SageAttention needs NVIDIA GPUs, and the ranks use cpu; leave"
    with pytest.raises(StartError, match=message):
        check_attention(Options(device="cpu", attention="sage"))


def test_warnings_before_the_report_of_the_devices_are_passed_over() -> None:
    """torch_npu writes to standard output what belongs to standard error."""
    written = (
        "Warning: ASCEND_HOME_PATH environment variable is not set.\n"
        '{"kind":"npu","description":"8 devices, 64 GiB of memory each"}\n'
    )
    assert read_device_report(written).kind == "npu"
