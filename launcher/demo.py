"""`make demo`: run one job on a server with CPU ranks, from submit to MP4, and stop the server.

It runs the commands a user would type: `launch.py --demo`, then `wan submit … --watch`.
"""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / "demo-state"
VIDEO = STATE / "demo.mp4"
LOG = STATE / "server.log"
PORT = os.environ.get("DEMO_PORT", "8088")
URL = f"http://127.0.0.1:{PORT}"
SERVE_URL = "http://127.0.0.1:8088"
READY_LIMIT_S = 180.0
STOP_LIMIT_S = 60.0

SERVER = f"launch.py --demo --nproc 8 --device cpu --port {PORT} --state-dir {STATE.name}"
JOB = "submit docs/sample.jpg --size 256*256 --frames 24 --steps 20 --seed 7 --watch"
PROMPT = "A small sailing boat drifts across a calm bay while the sun goes down"


def main() -> int:
    """Return 0 if the job produced a video and the server stopped cleanly."""
    STATE.mkdir(exist_ok=True)
    VIDEO.unlink(missing_ok=True)
    _print(f"Starting the server on {URL}; its log is {LOG.relative_to(ROOT)}")
    with LOG.open("wb") as log:
        server = subprocess.Popen([sys.executable, *SERVER.split()], cwd=ROOT, stderr=log)
    try:
        _await_ready(server)
        wan = str(Path(sys.executable).with_name("wan"))
        submit = [wan, *JOB.split(), "--server", URL, "--prompt", PROMPT, "--output", str(VIDEO)]
        submitted = subprocess.run(submit, cwd=ROOT, check=False)
    finally:
        stopped = _stop(server)
    if submitted.returncode or stopped or not VIDEO.is_file():
        _print(f"The demo failed; see the server log: {LOG}")
        return 1
    _print(f"The video: {VIDEO}")
    _print(f"Next: run `make serve`, open {SERVE_URL}, and read docs/walkthroughs/")
    return 0


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _await_ready(server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + READY_LIMIT_S
    while not _is_ready():
        if server.poll() is not None:
            raise SystemExit(LOG.read_text() + "The server ended before it was ready.")
        if time.monotonic() > deadline:
            raise SystemExit(f"the server was not ready within {READY_LIMIT_S:.0f} s; see {LOG}")
        time.sleep(0.25)


def _is_ready() -> bool:
    try:
        with urllib.request.urlopen(f"{URL}/health", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _stop(server: "subprocess.Popen[bytes]") -> int:
    server.send_signal(signal.SIGINT)
    try:
        return server.wait(timeout=STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        server.send_signal(signal.SIGINT)
        return server.wait(timeout=STOP_LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
