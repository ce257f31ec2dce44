"""A broker that says it is ready and dies at once, before anybody can be connected to it."""

import sys

import msgspec

from broker.config import BrokerConfig
from broker.process.child import report

if __name__ == "__main__":
    report(msgspec.json.decode(sys.argv[1], type=BrokerConfig).ready_fd, "ready")
    sys.exit(9)
