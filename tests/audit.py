"""`make audit`: check the pinned packages for known vulnerabilities.

It exits with 1 if a package has one. If the vulnerability data cannot be downloaded, it says so and
exits with 0.
"""

import json
import subprocess
import sys

OPTIONS = ["--requirement", "constraints.txt", "--no-deps", "--disable-pip", "--format", "json"]
LIMIT_S = 600.0


def main() -> int:
    command = [sys.executable, "-m", "pip_audit", *OPTIONS, "--progress-spinner", "off"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    try:
        packages = json.loads(answer.stdout)["dependencies"]
    except ValueError:
        reason = (answer.stderr.strip().splitlines() or ["no answer"])[-1]
        sys.stderr.write(f"audit SKIPPED, no vulnerability data: {reason}\n")
        return 0
    audited = [package for package in packages if "skip_reason" not in package]
    if not audited:
        sys.stderr.write(f"audit SKIPPED: no data on any of {len(packages)} packages\n")
        return 0
    bad = [f"{p['name']} {p['version']}: {v['id']}" for p in audited for v in p["vulns"]]
    summary = f"{len(audited)} of {len(packages)} packages audited, {len(bad)} vulnerabilities\n"
    sys.stdout.write("\n".join([*bad, summary]))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
