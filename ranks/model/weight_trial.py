"""`python -m ranks.model.weight_trial PATH [--transformer FILE]…`: check that the weights fit."""

import logging
import sys

from ranks.errors import ModelFolderError
from ranks.model.weights import check_fit
from ranks.model_files.model_choice import parse_choice


def main() -> int:
    logging.disable()  # standard error has the one line that the launcher shows
    try:
        check_fit(parse_choice().open())
    except ModelFolderError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
