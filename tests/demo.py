"""`make demo`: the whole server on CPU ranks, one job from submit to MP4, and a clean end.

It does what a person would do by hand: starts `launch.py --demo`, waits until it is ready, runs
`wan submit … --watch`, and stops the server.
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
WAN = Path(sys.executable).with_name("wan")
SAMPLE = ROOT / "docs" / "sample.jpg"
STATE = ROOT / "demo-state"
READY_LIMIT_S = 180.0
STOP_LIMIT_S = 60.0
SERVER_FLAGS = ["--demo", "--nproc", "8", "--device", "cpu"]
JOB_FLAGS = [
    "--size",
    "256*256",
    "--frames",
    "24",
    "--steps",
    "20",
    "--seed",
    "7",
    "--watch",
    "--prompt",
]
PROMPT = "A small sailing boat drifts across a calm bay while the sun goes down"


def main() -> int:
    """Run the demo; return 0 if it ended with a video and nothing was left running."""
    port = os.environ.get("DEMO_PORT", "8088")
    url = f"http://127.0.0.1:{port}"
    video = STATE / "demo.mp4"
    video.unlink(missing_ok=True)
    submit = [WAN, "--server", url, "submit", SAMPLE, "--prompt", PROMPT, *JOB_FLAGS]
    submit += ["--watch", "--output", video]
    server = subprocess.Popen(
        [sys.executable, "launch.py", *SERVER_FLAGS, "--port", port, "--state-dir", str(STATE)],
        cwd=ROOT,
    )
    try:
        _await_ready(server, f"{url}/health")
        submitted = subprocess.run(submit, check=False)
    finally:
        stopped = _stop(server)
    if submitted.returncode or stopped or not video.is_file():
        return 1
    sys.stdout.write(f"\nThe video: {video}\n")
    return 0


def _await_ready(server: "subprocess.Popen[bytes]", health_url: str) -> None:
    """Wait until the server takes jobs; end at once if it ends."""
    deadline = time.monotonic() + READY_LIMIT_S
    while not _is_ready(health_url):
        if server.poll() is not None:
            raise SystemExit("the server ended before it was ready; its log is above")
        if time.monotonic() > deadline:
            raise SystemExit(f"the server was not ready within {READY_LIMIT_S:.0f} s")
        time.sleep(0.25)


def _is_ready(health_url: str) -> bool:
    try:
        with urllib.request.urlopen(health_url, timeout=5):
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
