import os
import socket
from pathlib import Path

from tests.listening import listening


def test_every_kind_of_listening_socket_is_found(tmp_path: Path) -> None:
    before = listening([os.getpid()])
    with (
        socket.create_server(("127.0.0.1", 0)) as v4,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as v6,
        socket.create_server(("0.0.0.0", 0)) as everywhere,
        socket.socket(socket.AF_UNIX) as local,
    ):
        local.bind(str(tmp_path / "s"))
        local.listen()
        ports = [server.getsockname()[1] for server in (v4, v6, everywhere)]
        assert listening([os.getpid()]) - before == {
            f"127.0.0.1:{ports[0]}",
            f"::1:{ports[1]}",
            f"0.0.0.0:{ports[2]}",
            str(tmp_path / "s"),
        }
