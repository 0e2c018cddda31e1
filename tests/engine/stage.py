"""llama.cpp's server, headway before it, and what one asks of them. Standard library only."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

MODEL = "tiny-llama-random"
CORES = sorted(os.sched_getaffinity(0))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(url, timeout=5):
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return answer.read()


def get_json(url):
    return json.loads(get(url))


def until(what, ask, seconds=60, pause=0.05):
    """Asks until the answer is true; a process that is not there yet is asked again."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if found := ask():
                return found
        except (OSError, urllib.error.URLError, http.client.HTTPException):
            pass
        time.sleep(pause)
    sys.exit(f"waited in vain for {what}")


class Answer:
    """Status, head and body of one answer; of a stream also its events, with the second each came."""

    def __init__(self, port, path, body, head=None, leave_after=None, on_event=lambda _: None):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        text = body if isinstance(body, (bytes, str)) else json.dumps(body)
        begun = time.monotonic()
        connection.request("POST", path, text, {"content-type": "application/json", **(head or {})})
        answer = connection.getresponse()
        self.status, self.head = answer.status, dict(answer.getheaders())
        self.events, self.at, whole = [], [], []
        while line := answer.readline():
            whole.append(line)
            if line.startswith(b"data:"):
                self.events.append(line[5:].strip().decode())
                self.at.append(time.monotonic() - begun)
                on_event(self.events[-1])
            if leave_after is not None and len(self.events) >= leave_after:
                break
        self.seconds = time.monotonic() - begun
        self.body = b"".join(whole)
        # A client that leaves does so at once, with what it has not read.
        answer.close()
        connection.close()

    def json(self):
        return json.loads(self.body)

    def chunks(self):
        return [json.loads(event) for event in self.events if event != "[DONE]"]


class Stage:
    """Processes that end with the test, their logs in a folder."""

    def __init__(self, folder, server, headway):
        self.folder, self.server, self.headway = folder, server, headway
        self.processes = []

    def start(self, name, *command):
        with open(os.path.join(self.folder, f"{name}.log"), "w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def engine(self, name, precision, *more, core=0, wait=True, port=None):
        """A server of the model in that precision, on one core."""
        port = port or free_port()
        model = os.path.join(self.folder, f"{MODEL}-{precision}.gguf")
        pinned = ["taskset", "-c", str(CORES[core % len(CORES)])]
        process = self.start(
            name, *pinned, self.server, "-m", model, "--host", "127.0.0.1", "--port", str(port),
            "--alias", f"tiny,tiny-{precision}", "--metrics", "--threads", "1", "--threads-batch", "1",
            "--no-ui", *more)
        if wait:
            until(name, lambda: get(f"http://127.0.0.1:{port}/health"))
        return Engine(port, process)

    def proxy(self, backends, routes, name="headway", more=""):
        """headway with these stanzas, once every backend is ready."""
        port, admin = free_port(), free_port()
        config = os.path.join(self.folder, f"{name}.yaml")
        log = os.path.join(self.folder, f"{name}-access.log")
        open(log, "w").close()
        with open(config, "w") as file:
            file.write(f"listeners: [{{ address: 127.0.0.1:{port} }}]\nadmin: {{ address: 127.0.0.1:{admin} }}\n"
                       f"telemetry: {{ access_log: {{ path: {log} }} }}\n{more}backends:\n{backends}routes:\n{routes}")
        process = self.start(name, self.headway, "serve", "--config", config)
        proxy = Proxy(port, admin, log, config, process)
        until(name, lambda: get(f"http://127.0.0.1:{admin}/readyz"))
        until("its backends", lambda: all(
            one["state"] == "ready" and one["models"] for one in proxy.backends().values()))
        return proxy

    def end(self):
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Engine:
    def __init__(self, port, process):
        self.port, self.process = port, process

    def metrics(self):
        """Its page, by name."""
        lines = get(f"http://127.0.0.1:{self.port}/metrics").decode().splitlines()
        return {line.split()[0]: float(line.split()[1]) for line in lines if line and not line.startswith("#")}

    def processing(self):
        return self.metrics()["llamacpp:requests_processing"]


class Proxy:
    def __init__(self, port, admin, log, config, process):
        self.port, self.admin, self.log, self.config, self.process = port, admin, log, config, process

    def api(self, path):
        return get_json(f"http://127.0.0.1:{self.admin}/api/v1/{path}")

    def backends(self):
        found = self.api("backends")
        found = found["backends"] if isinstance(found, dict) else found
        return {one["name"]: one for one in found}

    def line(self, request_id):
        """The access log's line of an exchange."""
        def find():
            with open(self.log) as lines:
                found = [line for line in lines if f'"{request_id}"' in line and line.endswith("\n")]
            return json.loads(found[-1]) if found else None
        return until(f"the log's line of {request_id}", find, 20)

    def lines(self):
        with open(self.log) as lines:
            return [json.loads(line) for line in lines if line.endswith("\n")]
