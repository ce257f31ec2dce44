"""Reports why a rank cannot start, with advice for the failures that are known."""

from collections.abc import Iterator
from contextlib import contextmanager

from broker.process.child import report
from broker.process.log import one_line
from ranks.config import RankConfig

_PORT_HELP = (
    "Another process holds HCCL's port (host ports from 60000, device port 16666), most often a "
    "rank of an earlier server. Find it in the process table of `npu-smi info`, stop it, wait "
    "until its device memory is free, then start again."
)
_PORT_RANGE_HELP = (
    " If no process is left, set HCCL_HOST_SOCKET_PORT_RANGE=auto, or keep the ports free with "
    "`sysctl -w net.ipv4.ip_local_reserved_ports=60000-60015`."
)
_START_FAILURES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("EJ0003", "EI0019", "EI0020", "Failed to bind the IP port"), _PORT_HELP + _PORT_RANGE_HELP),
    (("HcclGetRootInfo",), _PORT_HELP + _PORT_RANGE_HELP),
    (
        ("EI0006", "Getting socket times out"),
        "A rank did not reach the others in time. Check the log for a rank that failed first. If "
        "some ranks load slowly, raise HCCL_CONNECT_TIMEOUT, and HCCL_EXEC_TIMEOUT with it.",
    ),
    (
        ("can't start new thread", "Resource temporarily unavailable"),
        "The limit on processes and threads is reached; raise it: --pids-limit of a container, "
        "TasksMax in systemd, `ulimit -u` of a shell.",
    ),
    (
        ("507018",),
        "A device does not respond; the operator must reset it before it can be used.",
    ),
    (
        ("libhccl.so", "libascendcl.so", "Failed to load the backend extension: torch_npu"),
        "CANN is not on the library path; source its set_env.sh (in /usr/local/Ascend/"
        "ascend-toolkit or /usr/local/Ascend/cann) in the shell that starts the server.",
    ),
)


@contextmanager
def reporting_failure(config: RankConfig, rank: int) -> Iterator[None]:
    """Report an exception to the launcher, with advice if the failure is known, and raise it."""
    try:
        yield
    except Exception as error:
        explanation = explain_start_failure(str(error))
        text = f"{explanation} ({error})" if explanation else str(error) or type(error).__name__
        report(config.ready_fd, f"failed {rank} {one_line(text)}")
        raise


def explain_start_failure(text: str) -> str | None:
    for marks, explanation in _START_FAILURES:
        if any(mark in text for mark in marks):
            return explanation
    return None
