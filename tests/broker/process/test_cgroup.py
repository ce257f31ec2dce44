"""The limits of containers, read from copies of the kernel's files."""

from pathlib import Path

import pytest

from broker.process.cgroup import CgroupLimits, num_oom_kills, read_limits

GIB = 1 << 30
UNLIMITED_V1 = "9223372036854771712\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    return tmp_path


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_the_tightest_limit_of_all_levels_counts(root: Path) -> None:
    write(
        root,
        {
            "proc/self/cgroup": "0::/pod/container\n",
            "sys/fs/cgroup/pod/memory.max": f"{4 * GIB}\n",
            "sys/fs/cgroup/pod/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pod/pids.max": "max\n",
            "sys/fs/cgroup/pod/container/memory.max": f"{6 * GIB}\n",
            "sys/fs/cgroup/pod/container/cpu.max": "250000 100000\n",
            "sys/fs/cgroup/pod/container/pids.max": "512\n",
            "sys/fs/cgroup/pod/container/memory.events": "oom 3\noom_kill 2\n",
        },
    )
    assert read_limits(root) == CgroupLimits(memory_bytes=4 * GIB, num_cpus=2.5, num_tasks=512)
    assert num_oom_kills(root) == 2


def test_a_container_that_sees_no_path_reads_the_top(root: Path) -> None:
    write(
        root,
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": f"{GIB}\n",
            "sys/fs/cgroup/memory.events": "oom_kill 1\n",
        },
    )
    assert read_limits(root) == CgroupLimits(memory_bytes=GIB, num_cpus=None, num_tasks=None)
    assert num_oom_kills(root) == 1


def test_the_first_version_is_read_by_controller(root: Path) -> None:
    write(
        root,
        {
            "proc/self/cgroup": "4:memory:/job\n3:pids:/job\n1:cpu,cpuacct:/job\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED_V1,
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{2 * GIB}\n",
            "sys/fs/cgroup/memory/job/memory.oom_control": "under_oom 0\noom_kill 7\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "150000\n",
            "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/pids/job/pids.max": "100\n",
        },
    )
    assert read_limits(root) == CgroupLimits(memory_bytes=2 * GIB, num_cpus=1.5, num_tasks=100)
    assert num_oom_kills(root) == 7


@pytest.mark.parametrize("lines", [None, "0::/\n", "4:memory:/\n0::/../../outside\n"])
def test_without_limits_everything_is_allowed(root: Path, lines: str | None) -> None:
    if lines is not None:
        write(root, {"proc/self/cgroup": lines})
    assert read_limits(root) == CgroupLimits(memory_bytes=None, num_cpus=None, num_tasks=None)
    assert num_oom_kills(root) == 0
