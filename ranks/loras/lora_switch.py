"""Changes the LoRAs of the loaded transformers between jobs, each rank in its own rows.

A switch reads the rows of the weights that the old or the new LoRAs change from the model's files,
which the page cache holds, and merges the new ones into them. There is no collective: ranks whose
switch failed differ from the others only in what they have to read for the next job.

On paper, for 14B and eight ranks, a LoRA on all linear layers of the blocks: 16.1 G weights in
float32 are 65 GB, 8.1 GB a rank; at 10 GB/s of the page cache to each of them 0.8 s, and 0.3 s over
PCIe at 25 GB/s. The product is 2 · 16.1 G · 64 / 8 = 0.26 TFLOP a rank: 0.01 s at 20 TFLOP/s in
float32. Together 1.1 s. A job of 20 guided steps at 720p takes 974 s · 20 / 40 = 487 s on one H200,
and 61 s on eight without any loss: 1.9 %. A model that is stored in bfloat16 needs half of it.
`tests/bench/loras.py` computes this, and measures it on a smaller model.
"""

import logging
from collections.abc import Sequence

from broker.wire.errors import ErrorCode
from broker.wire.lora import LoraChoice, LoraHashes
from ranks.errors import JobError, LoraFileError, ModelFolderError
from ranks.loras.lora_file import WeightedChanges
from ranks.loras.lora_files import LoraFiles, changes_of
from ranks.model.transformer import ShardTransformer
from ranks.model_files.components import ModelFiles
from ranks.parallel.sharding import reload_weights, set_sharded

logger = logging.getLogger(__name__)

_CHANGED = "LoRA {names} has changed or is gone since the job was accepted; submit the job again"
_UNUSABLE = "LoRA {names} cannot be used; see the server's log"

_Chosen = list[tuple[LoraFiles, float]]


class LoraSwitch:
    """The LoRAs that jobs may take, and those that the transformers have now.

    Args:
        transformers: All of the model.
        files: Where they are stored.
        offered: What jobs may take.
    """

    def __init__(
        self,
        transformers: Sequence[ShardTransformer],
        files: ModelFiles,
        offered: Sequence[LoraFiles],
    ) -> None:
        self._transformers = transformers
        self._files = files
        self._components = files.transformers
        self._offered = {lora.name: lora for lora in offered}
        self._present: _Chosen | None = []
        """None after a failure: some of the weights may have any of the changes."""
        self._changed: list[set[str]] = [set() for _ in transformers]
        """Names of the weights of each transformer that may not be as they were loaded."""

    @property
    def is_offered(self) -> bool:
        """Whether jobs may take any: the same on all ranks."""
        return bool(self._offered)

    def use(self, choices: Sequence[LoraChoice], hashes: LoraHashes) -> None:
        """Give the transformers these LoRAs and no others.

        Args:
            choices: Those of the job.
            hashes: Of their files when the job was accepted.

        Raises:
            JobError: If one has changed since, or cannot be used.
        """
        chosen = [(self._find(choice.name, hashes), choice.strength) for choice in choices]
        if chosen == self._present:
            return
        try:
            self._replace(chosen)
        except ModelFolderError as error:
            names = ", ".join(lora.name for lora, _ in chosen)
            raise JobError(ErrorCode.LORA_INVALID, _UNUSABLE.format(names=names)) from error
        logger.info("LoRAs: %s", ", ".join(lora.name for lora, _ in chosen) or "none")

    def _find(self, name: str, hashes: LoraHashes) -> LoraFiles:
        lora = self._offered.get(name)
        changed = JobError(ErrorCode.LORA_INVALID, _CHANGED.format(names=name))
        if lora is None or lora.hashes != hashes.get(name):
            raise changed
        try:
            # Hashing takes longer than merging: only where the file may be another one.
            is_same = lora.stamps_now() == lora.stamps or lora.identified().hashes == lora.hashes
        except LoraFileError as error:
            raise changed from error
        if not is_same:
            raise changed
        return lora

    def _replace(self, chosen: _Chosen) -> None:
        found = [(changes_of(lora, self._files), strength) for lora, strength in chosen]
        self._present = None
        for expert, transformer in enumerate(self._transformers):
            loras = [WeightedChanges(changes[expert], strength) for changes, strength in found]
            targets = {name for lora in loras for name in lora.changes.terms}
            # Before the first write: a failure leaves some of them changed.
            self._changed[expert] |= targets
            set_sharded(transformer, sharded=True)
            reload_weights(
                transformer.model, self._components[expert], self._changed[expert], loras
            )
            self._changed[expert] = targets
        for lora, _ in chosen:
            self._find(lora.name, {lora.name: lora.hashes})
        self._present = chosen
