"""A wrong address, key or store is found before any process starts."""

import socket
import sys
from pathlib import Path

import pytest

from broker.store.store import PARTIAL
from broker.wire.curve import make_keys
from broker.wire.sockets import Addresses
from launcher import joining
from launcher.command_line import parse_command
from launcher.doctor.findings import Finding
from launcher.doctor.multi_machine import multi_machine_findings
from launcher.joining import check_files, machine_name, tcp_addresses, try_listening
from launcher.options import OptionsError
from launcher.preflight import Folders, StartError, prepare_folders
from tests.free_port import free_port
from tests.object_store import SECRET, Site


def test_four_ports_in_a_row_are_used(tmp_path: Path) -> None:
    addresses = tcp_addresses("--listen", "tcp://0.0.0.0:5570", str(tmp_path))
    assert addresses == Addresses(
        requests=f"tcp://0.0.0.0:5570#{tmp_path}",
        groups=f"tcp://0.0.0.0:5571#{tmp_path}",
        beats=f"tcp://0.0.0.0:5572#{tmp_path}",
        events=f"tcp://0.0.0.0:5573#{tmp_path}",
    )


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("tcp://0.0.0.0:5570", "can be reached from other machines, so it needs CURVE keys"),
        ("tcp://example.com:5570", "can be reached from other machines, so it needs CURVE keys"),
        ("tcp://127.0.0.1", "is not tcp://HOST:PORT"),
        ("tcp://127.0.0.1:0", "is not tcp://HOST:PORT"),
        ("tcp://127.0.0.1:65533", "is not tcp://HOST:PORT with a PORT up to 65532"),
        ("127.0.0.1:5570", "is not tcp://HOST:PORT"),
        ("tcp://127.0.0.1:5570#keys", "is not tcp://HOST:PORT"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(address: str, message: str) -> None:
    with pytest.raises(StartError, match=f"^--listen .*{message}"):
        tcp_addresses("--listen", address, None)


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    first = free_port()
    with socket.create_server(("127.0.0.1", first + 2)):
        addresses = tcp_addresses("--listen", f"tcp://127.0.0.1:{first}", None)
        with pytest.raises(StartError, match=f"127.0.0.1:{first + 2}: Address already in use"):
            try_listening(addresses)
    try_listening(addresses)


def test_the_keys_of_the_other_end_are_refused(tmp_path: Path) -> None:
    _, peer = make_keys(tmp_path / "keys")
    addresses = tcp_addresses("--listen", f"tcp://127.0.0.1:{free_port()}", str(peer))
    with pytest.raises(StartError, match="key_secret is no CURVE key"):
        try_listening(addresses)


def test_a_server_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "JOIN_LIMIT_S", 1.5)
    folders = Folders.under(str(tmp_path))
    (Path(folders.store) / PARTIAL).mkdir(parents=True)
    address = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(StartError, match=f"--join {address}: no answer within 1.5 s"):
        check_files(tcp_addresses("--join", address, None), folders)
    assert not list((Path(folders.store) / PARTIAL).iterdir())


def test_two_launchers_on_one_machine_have_different_names(tmp_path: Path) -> None:
    names = [machine_name(Folders.under(str(tmp_path / name))) for name in "aab"]
    assert names[0] == names[1] != names[2]
    assert names[0].startswith(f"{socket.gethostname()}-")


def findings(folder: Path, *flags: str) -> list[Finding]:
    options = parse_command([*flags, "--state-dir", str(folder)], {}).options
    return list(multi_machine_findings(options, Folders.under(options.state_dir, options.store)))


def test_the_doctor_says_whether_others_can_join(tmp_path: Path) -> None:
    first = free_port()
    flags = ["--listen", f"tcp://127.0.0.1:{first}"]
    assert [finding.level for finding in findings(tmp_path, *flags)] == ["ok"]
    with socket.create_server(("127.0.0.1", first)):
        (finding,) = findings(tmp_path, *flags)
    assert (finding.level, finding.topic) == ("error", "listen")
    assert "Address already in use" in finding.message
    assert findings(tmp_path) == []


def test_the_doctor_says_whether_a_server_can_be_joined(tmp_path: Path) -> None:
    (finding,) = findings(tmp_path, "group", "--join", "tcp://127.0.0.1:5570")
    assert (finding.level, finding.topic) == ("error", "join")
    assert "name the path at which this machine sees the server" in finding.message
    assert finding.fix == f"ls -ld {tmp_path}/videos/.partial"


def test_the_doctor_says_whether_an_object_store_can_be_used(tmp_path: Path, site: Site) -> None:
    (finding,) = findings(tmp_path, "--store", site.place)
    assert (finding.level, finding.topic) == ("ok", "store")
    assert site.names() == []
    assert list(tmp_path.iterdir()) == []
    (finding,) = findings(tmp_path, "--store", "s3://missing/wan")
    assert (finding.level, finding.topic) == ("error", "store")
    assert finding.message.startswith("--store s3://missing/wan: ")
    assert "NoSuchBucket; see AWS_ENDPOINT_URL" in finding.message
    site.proxy.fail("refuses")
    (finding,) = findings(tmp_path, "--store", site.place)
    assert (finding.level, finding.topic) == ("error", "store")
    assert SECRET not in finding.message


def test_a_missing_library_for_the_store_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(StartError, match=r"--store s3:.* needs .*pip install -e '\.\[s3\]'"):
        prepare_folders(Folders.under(str(tmp_path), "s3://videos/wan"))


def test_a_store_that_cannot_be_is_refused_with_the_options() -> None:
    for flags, message in (
        (["--store", "gs://videos"], "it must be a folder or s3://BUCKET/PREFIX"),
        (["--store", "videos", "--store-downloads", "redirect"], "needs a store at s3://"),
        (["--store-downloads", "sometimes"], "relay"),
    ):
        with pytest.raises(OptionsError, match=message):
            parse_command(flags, {})
