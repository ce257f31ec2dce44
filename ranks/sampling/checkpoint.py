"""Saved states of a denoising loop: a run that was lost goes on from the latest one."""

import logging
import queue
import secrets
import threading
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from broker.store.store import CHECKPOINTS, Move, Store

logger = logging.getLogger(__name__)

State = dict[str, Tensor]


class Checkpoint:
    """The saved state of one job on its way to the store, in a thread that no step waits for.

    Args:
        store: Where it goes.
        name: Of the job's state; it is a whole one at every moment, or there is none.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self._states: queue.SimpleQueue[State | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)

    def keep(self, state: State) -> None:
        """Save a state soon. Its tensors must not be written to any more."""
        if not self._thread.ident:
            self._thread.start()
        self._states.put(state)

    def close(self) -> None:
        """Wait until the last state is saved."""
        if self._thread.ident:
            self._states.put(None)
            self._thread.join()

    def discard(self) -> None:
        """Remove what was saved: the job will not go on."""
        self.close()
        try:
            self._store.delete([self._name])
        except OSError as error:
            # It goes with the job.
            logger.warning("a checkpoint stays for now: %s", error)

    def _run(self) -> None:
        is_last = False
        while not is_last:
            states = [self._states.get()]
            while not self._states.empty():
                states.append(self._states.get())
            is_last = None in states
            self._save([state for state in states if state is not None])

    def _save(self, states: list[State]) -> None:
        """Save the last of the states that have come up meanwhile."""
        try:
            if states:
                save_state(states[-1], self._store, self._name)
        except OSError as error:
            # The run does not need it; only a lost run would have.
            logger.warning("no checkpoint could be saved: %s", error)


def save_state(state: State, store: Store, name: str) -> None:
    """Write a state so that the name is a whole one at every moment, even after power loss."""
    # A machine that was given up may still be writing to the same disk.
    job = Path(name).stem
    partial = store.partial(CHECKPOINTS) / f"{job}.{secrets.token_hex(4)}.part"
    content = safetensors.torch.save({name: value.contiguous() for name, value in state.items()})
    try:
        partial.write_bytes(content)
        store.put([Move(partial, name)])
    finally:
        partial.unlink(missing_ok=True)


def load_state(path: Path) -> State:
    """Read what `save_state` has written."""
    state: State = safetensors.torch.load_file(path)
    return state


def is_state(path: Path) -> bool:
    """Return whether a path holds a state that can be read; remove it if it is damaged."""
    try:
        load_state(path)
    except FileNotFoundError:
        return False
    except (OSError, SafetensorError) as error:
        logger.warning("dropped a damaged checkpoint: %s", error)
        path.unlink(missing_ok=True)
        return False
    return True
