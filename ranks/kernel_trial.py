"""Tries whether fused kernels work on a device, and compute what the plain ones do."""

import logging

import torch

from broker.process.log import one_line
from ranks.errors import DeviceError
from ranks.model.kernels import KernelForm, Kernels

logger = logging.getLogger(__name__)


def can_run(form: KernelForm, device: torch.device) -> bool:
    """Return whether kernels of a fused form work here; log why they do not."""
    try:
        kernels = Kernels(form)
        tokens = torch.linspace(-1, 1, 16 * 1024, device=device).view(1, 16, 1024).bfloat16()
        kernels.add(tokens.float(), tokens, tokens[:, :1].float())
        if form != "compiled":  # the others are ready within a second
            _require_plain_results(kernels, tokens)
    # A missing compiler or operator, a read-only folder, and whatever another version raises.
    except Exception as error:  # noqa: BLE001
        logger.warning(
            "%s kernels do not work here, so steps are slower: %s", form, one_line(str(error))
        )
        return False
    return True


def _require_plain_results(kernels: Kernels, tokens: torch.Tensor) -> None:
    """Compare kernels with the plain form, on tokens of eight heads of 128, as the models' are.

    Raises:
        DeviceError: If a result differs by more than it is rounded.
    """
    angles = torch.arange(16 * 64, device=tokens.device).view(16, 1, 64) / 512
    rope, weights = (angles.cos(), angles.sin()), (tokens[0, 0],) * 2
    added = (tokens.float(), tokens, *(tokens[:, :1].float(),) * 3, 1e-6)
    plain = Kernels("plain")
    for found, expected in (
        (
            kernels.rotate((tokens,) * 3, weights, rope, 1e-6, 8, 1),
            plain.rotate((tokens,) * 3, weights, rope, 1e-6, 8, 1),
        ),
        (kernels.add_and_modulate(*added)[1], plain.add_and_modulate(*added)[1]),
    ):
        error = float((found.float() - expected.float()).abs().max())
        if not error < 0.05:  # of numbers up to 4, in bfloat16
            raise DeviceError(f"they compute what is wrong by {error}")
