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
    JournalError,
    JournalFullError,
    StateDirInUseError,
    UnfitJournalError,
    UnfitStateDirError,
)
from broker.journal.journal import Journal
from broker.journal.state_dir import StateDir
from broker.process import child
from broker.server import Broker
from broker.store.store import StoreSetupError
from broker.wire.curve import CurveError

EXIT_STATE_DIR = 75
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
        journal = Journal(state_dir.journal)
        asyncio.run(_serve(config, journal))
    except StateDirInUseError as error:
        logger.error("%s", error)
        return EXIT_STATE_DIR
    except UnfitStateDirError as error:
        logger.error("%s", error)
        return child.UNFIT_EXIT_CODE
    except UnfitJournalError as error:
        logger.error("the journal cannot be used: %s", error)
        return child.UNFIT_EXIT_CODE
    except (JournalError, JournalFullError) as error:
        logger.error("the journal cannot be used: %s", error)
        return EXIT_JOURNAL
    except (OSError, CurveError, StoreSetupError) as error:
        logger.error("the broker cannot run: %s", error)
        return 1
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
