"""A broker that reports `ready` and dies before any peer can connect to it."""

import sys

import msgspec

from broker.config import BrokerConfig
from broker.process.child import report

if __name__ == "__main__":
    report(msgspec.json.decode(sys.argv[1], type=BrokerConfig).ready_fd, "ready")
    sys.exit(9)
