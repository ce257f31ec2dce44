"""Processors and memory of the host that this process may use."""

import math
import os

from broker.process.cgroup import read_limits


def num_cpus() -> int:
    num_allowed = len(os.sched_getaffinity(0))
    return min(num_allowed, math.ceil(read_limits().num_cpus or num_allowed))


def available_bytes() -> int:
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        line = next(line for line in meminfo if line.startswith("MemAvailable:"))
    return int(line.split()[1]) * 1024


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
