"""What the accelerators' runtimes read from the environment when they are loaded.

The nursery sets it before it imports torch, and only where the operator has not.
"""

import os
from pathlib import Path

DEFAULTS = {
    "TOKENIZERS_PARALLELISM": "false",
    # BLAS libraries start threads at import unless told not to, and threads do not survive a fork.
    "OPENBLAS_NUM_THREADS": "1",
    # All ranks are on one host.
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "HCCL_SOCKET_IFNAME": "lo",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "3",
    # The order of these limits matters: connecting must give up before a collective does, and a
    # collective before the process group (180 s), so that the first error in the log is the real
    # one.
    "HCCL_CONNECT_TIMEOUT": "120",
    "HCCL_EXEC_TIMEOUT": "136",
    # Ports that an ended process still holds are passed over.
    "HCCL_HOST_SOCKET_PORT_RANGE": "auto",
    "HCCL_NPU_SOCKET_PORT_RANGE": "auto",
    "ALGO": "0",
    "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
    "TASK_QUEUE_ENABLE": "2",
    "CPU_AFFINITY_CONF": "1",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    # Ranks compile kernels themselves: a pool of compilers would outlive a rank that is killed.
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}


def set_environment_defaults(private_dir: Path) -> None:
    """Set what the operator has left open.

    Args:
        private_dir: Holds compiled kernels. They are loaded and run, so nobody else may write
            there; torch would take a folder in /tmp whose name anyone can guess.
    """
    folder = private_dir / "kernels"
    kernels = {
        "TORCHINDUCTOR_CACHE_DIR": str(folder),
        # Triton builds a library of its own before torch tells it where: at home otherwise.
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "TRITON_HOME": str(folder),
    }
    for name, value in (DEFAULTS | kernels).items():
        os.environ.setdefault(name, value)
