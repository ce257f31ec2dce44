"""`make audit`: look the pinned packages up among the known vulnerabilities.

Ends with 1 if one of them has any. Where the data cannot be had, it says so and ends with 0.
"""

import json
import subprocess
import sys

OPTIONS = ["--requirement", "constraints.txt", "--no-deps", "--disable-pip", "--format", "json"]
LIMIT_S = 600.0


def main() -> int:
    """Return the exit code."""
    command = [sys.executable, "-m", "pip_audit", *OPTIONS, "--progress-spinner", "off"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    try:
        packages = json.loads(found.stdout)["dependencies"]
    except ValueError:
        reason = (found.stderr.strip().splitlines() or ["no answer"])[-1]
        sys.stderr.write(f"audit SKIPPED, no data of vulnerabilities: {reason}\n")
        return 0
    audited = [package for package in packages if "skip_reason" not in package]
    if not audited:
        sys.stderr.write(
            f"audit SKIPPED: nothing is known here of any of {len(packages)} packages\n"
        )
        return 0
    bad = [f"{p['name']} {p['version']}: {v['id']}" for p in audited for v in p["vulns"]]
    told = f"{len(audited)} of {len(packages)} packages audited, {len(bad)} vulnerabilities\n"
    sys.stdout.write("\n".join([*bad, told]))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
