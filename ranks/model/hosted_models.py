"""The parts of a loaded model that are in host memory between their uses."""

from dataclasses import dataclass

from ranks.model.block_streaming import BlockStreaming
from ranks.model.hosted_weights import HostedModel


@dataclass(frozen=True, kw_only=True)
class HostedModels:
    """They share the device: each leaves it when its stage of a job ends."""

    encoders: tuple[HostedModel, ...] = ()
    transformers: tuple[BlockStreaming, ...] = ()
    """All of the model's, or none."""

    @property
    def _parts(self) -> list[HostedModel | BlockStreaming]:
        return [*self.encoders, *self.transformers]

    @property
    def host_bytes(self) -> int:
        return sum(part.host_bytes for part in self._parts)

    @property
    def device_bytes(self) -> int:
        """What of them is on the device now."""
        return sum(part.device_bytes for part in self._parts)

    def use_transformer(self, index: int) -> None:
        """Have a transformer on the device, and no other."""
        for number, transformer in enumerate(self.transformers):
            if number != index:
                transformer.release()
        if self.transformers:
            self.transformers[index].place()

    def release(self) -> None:
        """Have none of them on the device; possible at any time, also after a failure."""
        for part in self._parts:
            part.release()
