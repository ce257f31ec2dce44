"""Saved states of a denoising loop: a run that was lost goes on from the latest one."""

import logging
import os
import queue
import secrets
import threading
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

logger = logging.getLogger(__name__)

State = dict[str, Tensor]


class Checkpoint:
    """The saved state of one job on its way to disk, in a thread that the steps do not wait for.

    Args:
        path: Of the job; it holds a whole state at every moment, or does not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
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
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        while (state := self._states.get()) is not None:
            try:
                save_state(state, self._path)
            except OSError as error:
                # The run does not need it; only a lost run would have.
                logger.warning("no checkpoint could be saved: %s", error)


def save_state(state: State, path: Path) -> None:
    """Write a state so that the path holds a whole one at every moment, even after power loss."""
    # A machine that was given up may still be writing to the same disk.
    partial = path.with_suffix(f".{secrets.token_hex(4)}.part")
    content = safetensors.torch.save({name: value.contiguous() for name, value in state.items()})
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


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


def sync_folder(folder: Path) -> None:
    """Make renames in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
