"""`python -m broker JSON`: run the broker until SIGTERM or SIGINT."""

import asyncio
import gc
import logging
import signal
import sys
from pathlib import Path

import msgspec

from broker.config import BrokerConfig
from broker.errors import (
    BackupError,
    JournalError,
    JournalFullError,
    JournalRemovedError,
    MissingJournalError,
    SocketRemovedError,
    StateDirInUseError,
    UnfitJournalError,
    UnfitStateDirError,
)
from broker.janitor import expect_no_files
from broker.journal.journal import Journal
from broker.journal.state_dir import StateDir
from broker.process import child
from broker.server import Broker
from broker.store.opening import open_store
from broker.store.store import StoreSetupError
from broker.wire.curve import CurveError

EXIT_JOURNAL = 70

logger = logging.getLogger("broker")


def main() -> int:
    """Return the exit code.

    0 after a stop, 70 if the journal cannot be read or written, 75 if its folder is in use, 78 if
    one of them must be replaced first, 1 if the broker cannot start for another reason.
    """
    config = msgspec.json.decode(sys.argv[1], type=BrokerConfig)
    child.begin("broker", config.parent_pid, config.log_format)
    child.allow_many_files()
    gc.callbacks.append(_freeze_survivors)
    try:
        state_dir = StateDir(Path(config.state_dir))
        journal = _open_journal(config, state_dir.journal)
        return _run(config, journal)
    except StateDirInUseError as error:
        logger.error("%s", error)
        return child.IN_USE_EXIT_CODE
    except (UnfitStateDirError, MissingJournalError) as error:
        logger.error("%s", error)
        return child.UNFIT_EXIT_CODE
    except UnfitJournalError as error:
        logger.error("the journal cannot be used: %s", error)
        return child.UNFIT_EXIT_CODE
    except SocketRemovedError as error:
        logger.error("%s; the next start makes it again", error)
        return EXIT_JOURNAL
    except (JournalError, JournalFullError) as error:
        logger.error("the journal cannot be used: %s", error)
        return EXIT_JOURNAL
    except (OSError, CurveError, StoreSetupError) as error:
        logger.error("the broker cannot run: %s", error)
        return 1


def _open_journal(config: BrokerConfig, path: Path) -> Journal:
    place = config.store or config.state_dir
    return Journal(path, lambda: expect_no_files(open_store(place), place, path))


def _run(config: BrokerConfig, journal: Journal) -> int:
    try:
        asyncio.run(_serve(config, journal))
        journal.expect_in_place()
    except JournalRemovedError as error:
        try:
            journal.put_back()
        except BackupError as fault:
            logger.error("%s; stopping: %s", error, fault)
            return child.UNFIT_EXIT_CODE
        logger.error("%s; all its jobs were written to a new file there", error)
        return EXIT_JOURNAL
    journal.close()
    return 0


async def _serve(config: BrokerConfig, journal: Journal) -> None:
    broker = Broker(config, journal)
    loop = asyncio.get_running_loop()
    stopping: list[asyncio.Task[None]] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: stopping.append(loop.create_task(broker.stop())))
    await broker.run()


def _freeze_survivors(phase: str, info: dict[str, int]) -> None:
    """Exempt objects that survived a full collection from later ones.

    With 100,000 jobs each collection would stop the broker for a quarter of a second. Jobs are in
    no reference cycle, so that reference counting frees them.
    """
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()


if __name__ == "__main__":
    sys.exit(main())
