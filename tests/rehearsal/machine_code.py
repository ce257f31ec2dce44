"""What NVIDIA's disassembler says of a compiled kernel."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import triton.backends.nvidia

_TOOLS = Path(triton.backends.nvidia.__path__[0]) / "bin"
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?!NOP)(.*);")
_LABEL = re.compile(r"\s*(\.L_\w+):")
_BRANCH = re.compile(r"BRA.*`\((\.L_\w+)\)")
_RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+)")


@dataclass(frozen=True)
class MachineCode:
    """Counts of one kernel.

    Args:
        num_instructions: What a warp executes; a loop's body counts once.
        num_loops: Loops that were left as such.
        num_registers: Of each thread.
        num_spilled_bytes: What a thread keeps in memory because its registers do not suffice.
    """

    num_instructions: int
    num_loops: int
    num_registers: int
    num_spilled_bytes: int


def read_machine_code(cubin: bytes) -> MachineCode:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        listing = _run("nvdisasm", "-c", file.name)
        resources = _RESOURCES.search(_run("cuobjdump", "--dump-resource-usage", file.name))
    assert resources is not None
    num_registers, num_spilled_bytes = map(int, resources.groups())
    num_instructions, num_loops = _count(listing)
    return MachineCode(num_instructions, num_loops, num_registers, num_spilled_bytes)


def _count(listing: str) -> tuple[int, int]:
    """Return how many instructions and loops a listing has.

    A loop is a branch back. The one from the last instruction to itself guards the end of the code.
    """
    num_instructions = num_loops = 0
    labels: dict[str, int] = {}
    for line in listing.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = num_instructions
        elif instruction := _INSTRUCTION.search(line):
            branch = _BRANCH.search(instruction[1])
            if branch and labels.get(branch[1], num_instructions) < num_instructions:
                num_loops += 1
            num_instructions += 1
    return num_instructions, num_loops


def _run(tool: str, *arguments: str) -> str:
    command = [str(_TOOLS / tool), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
