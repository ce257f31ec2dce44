"""A broker with a bad disk: `python -m tests.broker.journal.broker_on_faulty_disk CONFIG CALL N`.

The N-th call of that kind fails with an I/O error, as in `sync 3`.
"""

import sys

from broker import __main__ as broker
from tests.broker.journal.faulty_disk import FailAt, faulty_disk, io_error


def main() -> int:
    kind, number = sys.argv[2], int(sys.argv[3])
    fail = FailAt(number, io_error, for_good=False)

    def before(call: str) -> None:
        if call == kind:
            fail(call)

    with faulty_disk(before):
        return broker.main()


if __name__ == "__main__":
    sys.exit(main())
