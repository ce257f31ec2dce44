"""Environment variables that the accelerator runtimes read when they are loaded.

The process that starts the ranks sets them before it imports torch. Values set by the operator win.
"""

import os
from pathlib import Path

DEFAULTS = {
    "TOKENIZERS_PARALLELISM": "false",
    # BLAS libraries start threads at import by default, and threads do not survive a fork.
    "OPENBLAS_NUM_THREADS": "1",
    # All ranks are on one host.
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "HCCL_SOCKET_IFNAME": "lo",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "3",
    # The order of these limits matters: connecting must time out before a collective does, and a
    # collective before the process group (180 s), so that the first error in the log is the cause.
    "HCCL_CONNECT_TIMEOUT": "120",
    "HCCL_EXEC_TIMEOUT": "136",
    # Skip ports that an ended process still holds.
    "HCCL_HOST_SOCKET_PORT_RANGE": "auto",
    "HCCL_NPU_SOCKET_PORT_RANGE": "auto",
    "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
    "TASK_QUEUE_ENABLE": "2",
    "CPU_AFFINITY_CONF": "1",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    # Compile in the rank itself: a pool of compiler processes would outlive a killed rank.
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}


def set_environment_defaults(private_dir: Path) -> None:
    """Set the variables that the operator has not set.

    Args:
        private_dir: Folder for compiled kernels. They are loaded and executed, so no other user may
            write there; torch's own default is a folder in /tmp with a predictable name.
    """
    folder = private_dir / "kernels"
    kernels = {
        "TORCHINDUCTOR_CACHE_DIR": str(folder),
        # Triton builds a helper library before torch sets its cache; by default in the home folder.
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "TRITON_HOME": str(folder),
    }
    for name, value in (DEFAULTS | kernels).items():
        os.environ.setdefault(name, value)
