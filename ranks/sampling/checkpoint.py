"""Checkpoints of the denoising loop, from which an interrupted job is resumed."""

import hashlib
import logging
import queue
import secrets
import threading
from pathlib import Path

import msgspec
import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from broker.store.store import CHECKPOINTS, Move, Store
from broker.wire.group_commands import RunJob
from broker.wire.model_profile import ModelProfile
from ranks.device import to_host

logger = logging.getLogger(__name__)

State = dict[str, Tensor]
_MODEL = "model"
"""Key of the model's content hash among a file's metadata."""


_SAVE_EVERY_S = 15.0
"""A step of a large clip on one card takes longer."""


class SaveSchedule:
    """When to save the state of a denoising loop.

    Args:
        every_steps: After how many steps, or earlier if these take long.
    """

    def __init__(self, every_steps: int) -> None:
        self._every_steps = every_steps
        self._saved_s = 0.0

    def begin(self, now_s: float) -> None:
        self._saved_s = now_s

    def is_due(self, step: int, now_s: float) -> bool:
        """Return whether to save after a step; the state counts as saved then."""
        is_due = step % self._every_steps == 0 or now_s - self._saved_s >= _SAVE_EVERY_S
        if is_due:
            self._saved_s = now_s
        return is_due


class Checkpoint:
    """The checkpoint of one job, saved in a thread so that no step waits for the store.

    Args:
        store: Store of the checkpoints.
        name: Name of the checkpoint in the store. It is replaced as a whole, never in part.
        model_hash: Of the model and the LoRAs that compute it; no others resume from it.
    """

    def __init__(self, store: Store, name: str, model_hash: str = "") -> None:
        self._store = store
        self._name = name
        self._model_hash = model_hash
        self._states: queue.SimpleQueue[State | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)

    def save(self, state: State) -> None:
        """Queue a state to be saved. Its tensors must not be written to any more."""
        if not self._thread.ident:
            self._thread.start()
        # Copied here, since an NPU refuses threads that have not opened it.
        self._states.put({name: to_host(value) for name, value in state.items()})

    def close(self) -> None:
        if self._thread.ident:
            self._states.put(None)
            self._thread.join()

    def discard(self) -> None:
        self.close()
        try:
            self._store.delete([self._name])
        except OSError as error:
            # It is deleted together with the job.
            logger.warning("a checkpoint stays until its job is removed: %s", error)

    def _run(self) -> None:
        is_last = False
        while not is_last:
            states = [self._states.get()]
            while not self._states.empty():
                states.append(self._states.get())
            is_last = None in states
            self._save_latest([state for state in states if state is not None])

    def _save_latest(self, states: list[State]) -> None:
        try:
            if states:
                save_state(states[-1], self._store, self._name, self._model_hash)
        except OSError as error:
            # The run itself does not need its checkpoint.
            logger.warning("no checkpoint could be saved: %s", error)


def save_state(state: State, store: Store, name: str, model_hash: str = "") -> None:
    """Write a state so that the file is complete at every moment, even after a power loss.

    Raises:
        OSError: If the disk is full, or the store cannot be reached.
    """
    job = Path(name).stem
    # A random name: a machine that was given up may still write to the same disk.
    partial = store.partial(CHECKPOINTS) / f"{job}.{secrets.token_hex(4)}.part"
    tensors = {name: value.cpu().contiguous() for name, value in state.items()}
    content = safetensors.torch.save(tensors, {_MODEL: model_hash})
    try:
        partial.write_bytes(content)
        store.put([Move(partial, name)])
    finally:
        partial.unlink(missing_ok=True)


def state_hash(model: ModelProfile, job: RunJob, vae_dtype: str | None = None) -> str:
    """Return the hash of all that decides, besides its parameters, what a job computes.

    `vae_dtype` is None where the VAE computes in the usual dtype of the device.
    """
    if not (job.spec.loras or vae_dtype):
        return model.content_hash
    loras = [(choice, job.lora_hashes.get(choice.name)) for choice in job.spec.loras]
    more = [vae_dtype] if vae_dtype else []
    content = msgspec.json.encode((model.content_hash, loras, *more))
    return hashlib.sha256(content).hexdigest()


def load_state(path: Path) -> State:
    state: State = safetensors.torch.load_file(path)
    return state


def is_state(path: Path, model_hash: str = "") -> bool:
    """Return whether a file holds a state of this model; remove it if it does not."""
    try:
        _require_model(path, model_hash)
        _require_intact(load_state(path))
    except FileNotFoundError:
        return False
    except (OSError, SafetensorError, ValueError) as error:
        logger.warning("removed a checkpoint that cannot be resumed from: %s", error)
        path.unlink(missing_ok=True)
        return False
    return True


def _require_model(path: Path, model_hash: str) -> None:
    with safe_open(path, "pt") as file:
        found = (file.metadata() or {}).get(_MODEL, "")
    if found != model_hash:
        raise ValueError(
            "it is of another model, of other LoRAs, of another --vae-dtype, or of an earlier "
            "version of the server"
        )


def _require_intact(state: State) -> None:
    for name, value in state.items():
        if not value.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity")
