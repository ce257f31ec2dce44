"""Which kernels compute attention: by rule, so that every rank and every start take the same ones.

Packages bring others than torch's. Those for exact attention take the place of torch's own flash
attention, by a switch of torch's; the lossy one is called as diffusers calls it.
"""

import logging
import re
from collections.abc import Callable, Collection
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Literal

import msgspec
from torch.nn.attention import activate_flash_attention_impl, restore_flash_attention_impl

from broker.process.log import one_line
from broker.wire.model_profile import Attention
from ranks.errors import DeviceError

logger = logging.getLogger(__name__)

AttentionKernels = Literal["torch", "flash4", "flash3", "sage"]

NAMES: dict[AttentionKernels, str] = {
    "torch": "torch's own",
    "flash4": "FlashAttention-4",
    "flash3": "FlashAttention-3",
    "sage": "SageAttention (lossy)",
}
"""As people call them."""


class _Flash(msgspec.Struct, frozen=True):
    """Kernels that torch's switch knows.

    Args:
        switch: By which torch knows them.
        module: What a package that brings them has.
        majors: The compute capabilities for which torch takes them.
    """

    kernels: AttentionKernels
    switch: str
    module: str
    majors: tuple[int, ...]


# FlashAttention-3 is made for capability 9 alone, so it goes first there.
_FLASH = (
    _Flash("flash3", "FA3", "flash_attn_interface", (9,)),
    _Flash("flash4", "FA4", "flash_attn.cute.interface", (9, 10)),
)

_SAGE = "sageattention"
_SAGE_SOURCE = "https://github.com/thu-ml/SageAttention"
_LEAST_SAGE = (2, 1, 1)
"""What diffusers asks for."""


def choose_attention(
    wanted: Attention, capability: tuple[int, int], installed: Collection[str]
) -> AttentionKernels:
    """Return the kernels for a GPU.

    Args:
        wanted: As `--attention` spells it.
        capability: The GPU's compute capability.
        installed: Which of `module_names()` there are.
    """
    if wanted == "sage":
        return "sage"
    for flash in _FLASH:
        if flash.module in installed and capability[0] in flash.majors:
            return flash.kernels
    return "torch"


def module_names() -> list[str]:
    return [flash.module for flash in _FLASH]


def installed_modules() -> set[str]:
    return {name for name in module_names() if _is_installed(name)}


def activate(kernels: AttentionKernels, trial: Callable[[], object]) -> AttentionKernels:
    """Let torch's flash attention be computed by the chosen kernels; return those that work.

    Args:
        kernels: Chosen by the rule.
        trial: Computes attention as the model does, and raises if that fails.
    """
    for flash in _FLASH:
        if flash.kernels != kernels:
            continue
        try:
            activate_flash_attention_impl(flash.switch)
            trial()
        # A package for another CUDA, a missing compiler, and whatever else kernels raise.
        except Exception as error:  # noqa: BLE001
            restore_flash_attention_impl(_raise_warn=False)
            logger.warning(
                "%s is installed but does not work, so torch's own attention computes: %s",
                NAMES[kernels],
                one_line(str(error)),
            )
            return "torch"
    return kernels


def require_sage() -> None:
    """Check that SageAttention is installed.

    Raises:
        DeviceError: If it is not, or is too old.
    """
    least = ".".join(map(str, _LEAST_SAGE))
    try:
        found = version(_SAGE)
    except PackageNotFoundError:
        found = "none"
    # A release may end in letters, as in 2.2.0.post1.
    if tuple(map(int, re.findall(r"\d+", found)))[: len(_LEAST_SAGE)] < _LEAST_SAGE:
        raise DeviceError(
            f"SageAttention {least} or later is needed, and this Python has {found}; install it "
            f"from {_SAGE_SOURCE}, or leave --attention out"
        )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:  # a package above it is missing
        return False
