#!/usr/bin/env python3
"""Runs a command against a real headway: simulated NIMs and scripted backends, and `headway serve` before them.

    tests/sdk/stack.py target/debug/headway COMMAND [ARGUMENT…]

The command's exit status is ours. It finds in its environment:

    HEADWAY_URL          headway, over plain HTTP
    HEADWAY_TLS_URL      headway, over TLS, where the `openssl` command could make a certificate
    HEADWAY_CA           that certificate
    HEADWAY_ADMIN_URL    headway's admin address
    HEADWAY_SEEN_URL     how often each scripted backend was asked (backend.py)
    HEADWAY_FAILOVERS    the scripts that a second backend makes good, as JSON

Every model is served by one backend of its own, so that a request names the behaviour it wants: the simulated NIMs
below, the scripts of backend.py, and, for `failover-SCRIPT`, that script's backend and a good one in turn.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from backend import Backends

# Model → what its simulated NIM does wrong.
BEHAVIOURS = {
    "well": [],
    "refusing": ["--fault", "refuse"],
    "unreachable": ["--fault", "refuse-connection"],
    "nim-error-first": ["--fault", "error-event"],
    "error-in-the-middle": ["--fault", "error-event-mid"],
    "cut-short": ["--fault", "truncate"],
    "empty": ["--fault", "empty"],
}
# Scripts that a second backend makes good.
FAILOVERS = ["error-first", "error-after-role", "busy-first", "error-as-json", "nothing", "silent", "503", "429-wait-1"]
# Scripts that two backends play, so that headway's own second try fails as the first did.
PAIRS = ["503", "error-first"]
PATIENCE = 20.0


def start(arguments, marker, lines_of):
    """Starts a process and waits for one match of `marker` per wanted line on one of its streams."""
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, lines_of: subprocess.PIPE}
    process = subprocess.Popen(arguments, text=True, **pipes)
    return process, (match for line in getattr(process, lines_of) if (match := re.search(marker, line)))


def certificate(folder):
    """A certificate for this test alone, or nothing where there is no `openssl`."""
    if not shutil.which("openssl"):
        return None
    cert, key = folder / "tls.crt", folder / "tls.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        + ["-subj", "/CN=headway test", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        + ["-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )
    return cert, key


def configuration(nims, scripted, tls):
    """One backend and one route per model; short timers, so that a silent script fails soon."""
    listeners = ["{ address: 127.0.0.1:0 }"]
    if tls:
        listeners.append("{ address: 127.0.0.1:0, tls: { certificate: '%s', key: '%s' } }" % tls)
    backends, routes = [], []

    def route(name, members):
        timeouts = "timeouts: { first_token: 500ms, idle: 300ms }, " if name not in nims else ""
        routes.append(
            f"{{ name: {name}, match: {{ models: ['{name}'] }}, backends: [{', '.join(members)}], {timeouts}"
            "policy: round_robin, expose: true, slo: { ttft: { p95: 500ms } } }"
        )

    for name, url in {**nims, **scripted}.items():
        backends.append(f"{{ name: b-{name}, url: '{url}', models: ['{name}'] }}")
        route(name, [f"b-{name}"])
    for kind, scripts in (("failover", FAILOVERS), ("pair", PAIRS)):
        for name in scripts:
            other = "good" if kind == "failover" else name
            for member, script in (("a", name), ("b", other)):
                url, model = scripted[script], f"{kind}-{name}"
                backends.append(f"{{ name: {model}-{member}, url: '{url}', models: ['{model}'] }}")
            route(f"{kind}-{name}", [f"{kind}-{name}-a", f"{kind}-{name}-b"])
    sections = {"listeners": listeners, "backends": backends, "routes": routes}
    return "admin: { address: 127.0.0.1:0 }\n" + "".join(
        f"{name}:\n" + "".join(f"  - {line}\n" for line in lines) for name, lines in sections.items()
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
        with tempfile.TemporaryDirectory() as name, Backends() as backends:
            folder = Path(name)
            tls = certificate(folder)
            file = folder / "headway.yaml"
            file.write_text(configuration(nims, backends.urls, tls))
            process, found = start([headway, "serve", "--config", str(file)], r"address=([0-9.]+:\d+)", "stderr")
            processes.append(process)
            # What it logs after these lines is not read; a full pipe would make it drop lines, and nothing else.
            addresses = [next(found).group(1) for _ in range(3 if tls else 2)]
            environment = {
                **os.environ,
                "HEADWAY_URL": f"http://{addresses[0]}",
                "HEADWAY_ADMIN_URL": f"http://{addresses[-1]}",
                "HEADWAY_FAILOVERS": json.dumps(FAILOVERS),
                "HEADWAY_SEEN_URL": backends.urls["good"] + "/seen",
            }
            if tls:
                environment |= {"HEADWAY_TLS_URL": f"https://{addresses[1]}", "HEADWAY_CA": str(tls[0])}
            wait_until_ready(environment["HEADWAY_ADMIN_URL"])
            return subprocess.run(command, env=environment).returncode
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(timeout=PATIENCE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
