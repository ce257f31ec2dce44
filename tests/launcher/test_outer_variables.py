"""Variables that other programs left in the environment."""

import socket

import pytest

from launcher.outer_variables import IGNORED, ignore_outer_variables, unusable_variables

PRESENT = [(1, "lo"), (2, "eth0"), (3, "docker0")]


@pytest.fixture(autouse=True)
def interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "if_nameindex", lambda: PRESENT)


def test_what_must_not_reach_a_process_is_removed() -> None:
    environ = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "RANK": "3", "PATH": "/bin"}
    assert sorted(ignore_outer_variables(environ)) == ["RANK", "TORCH_DEVICE_BACKEND_AUTOLOAD"]
    assert environ == {"PATH": "/bin"}
    assert not set(IGNORED) & set(environ)


@pytest.mark.parametrize("variable", ["GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"])
def test_an_interface_that_does_not_exist_is_named(variable: str) -> None:
    [fault] = unusable_variables({variable: "eth9"})
    assert fault == (
        f"{variable} is 'eth9', which matches no network interface of this machine "
        "(docker0, eth0, lo); unset it, or set it to lo"
    )


@pytest.mark.parametrize(
    ("variable", "wanted"),
    [
        ("GLOO_SOCKET_IFNAME", "eth0"),
        ("GLOO_SOCKET_IFNAME", "ib0,eth0"),
        ("GLOO_SOCKET_IFNAME", ""),
        ("NCCL_SOCKET_IFNAME", "eth"),
        ("NCCL_SOCKET_IFNAME", "=eth0"),
        ("NCCL_SOCKET_IFNAME", "^docker,lo"),
        ("HCCL_SOCKET_IFNAME", "^=eth0,docker0"),
        ("HCCL_SOCKET_IFNAME", "enp,docker"),
    ],
)
def test_an_interface_that_exists_is_the_operators_choice(variable: str, wanted: str) -> None:
    assert list(unusable_variables({variable: wanted})) == []


@pytest.mark.parametrize(
    ("variable", "wanted"),
    [
        ("GLOO_SOCKET_IFNAME", "eth"),
        ("NCCL_SOCKET_IFNAME", "=eth"),
        ("HCCL_SOCKET_IFNAME", "^eth,docker,lo"),
    ],
)
def test_each_library_matches_in_its_own_way(variable: str, wanted: str) -> None:
    assert len(list(unusable_variables({variable: wanted}))) == 1
