#!/usr/bin/env python3
"""Runs a command against a real headway: simulated NIMs, one per behaviour, and `headway serve` before them.

    tests/sdk/stack.py target/debug/headway COMMAND [ARGUMENT…]

The command finds HEADWAY_URL and HEADWAY_ADMIN_URL in its environment; its exit status is ours. Every model below is
served by one backend of its own, so that a request names the behaviour it wants.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

# Model → what its simulated NIM does wrong.
BEHAVIOURS = {
    "well": [],
    "refusing": ["--fault", "refuse"],
    "unreachable": ["--fault", "refuse-connection"],
    "error-first": ["--fault", "error-event"],
    "error-in-the-middle": ["--fault", "error-event-mid"],
    "cut-short": ["--fault", "truncate"],
    "empty": ["--fault", "empty"],
}
PATIENCE = 20.0


def start(arguments, marker, lines_of):
    """Starts a process and waits for one match of `marker` per wanted line on one of its streams."""
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, lines_of: subprocess.PIPE}
    process = subprocess.Popen(arguments, text=True, **pipes)
    return process, (match for line in getattr(process, lines_of) if (match := re.search(marker, line)))


def configuration(nims):
    backends = "".join(f"  - {{ name: {name}, url: '{url}', models: [{name}] }}\n" for name, url in nims.items())
    routes = "".join(
        f"  - {{ name: {name}, match: {{ models: [{name}] }}, backends: [{name}], slo: {{ ttft: {{ p95: 500ms }} }} }}\n"
        for name in nims
    )
    return (
        "listeners: [{ address: 127.0.0.1:0 }]\nadmin: { address: 127.0.0.1:0 }\n"
        f"backends:\n{backends}routes:\n{routes}"
    )


def wait_until_ready(admin):
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(f"{admin}/readyz", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def main(headway, command):
    processes = []
    try:
        nims = {}
        for name, faults in BEHAVIOURS.items():
            arguments = [headway, "nim", "--listen", "127.0.0.1:0", "--model", name, "--speed", "10", *faults]
            process, found = start(arguments, r"listening on (http://\S+)", "stdout")
            processes.append(process)
            nims[name] = next(found).group(1)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "headway.yaml"
            file.write_text(configuration(nims))
            process, found = start([headway, "serve", "--config", str(file)], r"address=([0-9.]+:\d+)", "stderr")
            processes.append(process)
            data, admin = (f"http://{next(found).group(1)}" for _ in range(2))
            # What it logs from here on is not read; a full pipe would make it drop lines, and nothing else.
            wait_until_ready(admin)
            environment = {**os.environ, "HEADWAY_URL": data, "HEADWAY_ADMIN_URL": admin}
            return subprocess.run(command, env=environment).returncode
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(timeout=PATIENCE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
