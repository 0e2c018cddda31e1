"""headway, simulated NIMs and a real Jaeger: what is sent comes back, and says what the access log says."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

JAEGER, HEADWAY = sys.argv[1:3]
CALLER = "00f067aa0ba902b7"
TRACE = {"http/protobuf": "4bf92f3577b34da6a3ce929d0e0e4736", "grpc": "4bf92f3577b34da6a3ce929d0e0e4737"}
SERVER, CLIENT = "POST /v1/chat/completions", "chat meta/llama-3.1-8b-instruct"
# Jaeger keeps microseconds; the issue asks for a millisecond.
WITHIN_MS = 1.0


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read()


def until(what, ask):
    for _ in range(200):
        try:
            if found := ask():
                return found
        except (OSError, urllib.error.URLError):
            pass
        time.sleep(0.1)
    sys.exit(f"waited in vain for {what}")


class Running:
    """Processes that end with the test."""

    def __init__(self, folder):
        self.folder, self.processes = folder, []

    def start(self, name, *command):
        log = open(os.path.join(self.folder, f"{name}.log"), "w")
        clean = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=clean)
        self.processes.append(process)
        return process

    def end(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def ask(port, fields, body):
    head = {"content-type": "application/json", **fields}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(), head)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()


def serve(running, folder, protocol, otlp_port, nims):
    """headway before a NIM that refuses and one that answers; its data port, admin port, log, process."""
    port, admin, log = free_port(), free_port(), os.path.join(folder, f"{protocol.replace('/', '-')}.log")
    config = os.path.join(folder, f"{protocol.replace('/', '-')}.yaml")
    with open(config, "w") as file:
        file.write(f"""
listeners: [{{ address: 127.0.0.1:{port} }}]
admin: {{ address: 127.0.0.1:{admin} }}
telemetry:
  otlp: {{ endpoint: "http://127.0.0.1:{otlp_port}", protocol: {protocol}, sample_ratio: 100% }}
  access_log: {{ path: {log} }}
backends:
  - {{ name: busy, url: "http://127.0.0.1:{nims[0]}", profile: a }}
  - {{ name: good, url: "http://127.0.0.1:{nims[1]}", profile: b }}
routes:
  - {{ name: chat, backends: [busy, good], policy: round_robin, slo: {{ ttft: {{ p95: 5s }} }} }}
""")
    process = running.start(f"headway-{otlp_port}", HEADWAY, "serve", "--config", config)
    until("headway", lambda: get(f"http://127.0.0.1:{admin}/readyz?verbose").count(b"ready") and
          get(f"http://127.0.0.1:{admin}/readyz"))
    backends = f"http://127.0.0.1:{admin}/api/v1/backends"
    until("both backends", lambda: get(backends).count(b'"ready"') >= 2)
    return port, log, process


def spans_of(query, trace):
    """A trace as Jaeger tells it: spans by id, tags as a mapping."""
    answer = json.loads(get(f"http://127.0.0.1:{query}/api/traces/{trace}"))
    [data] = answer["data"]
    spans = {}
    for span in data["spans"]:
        span["tags"] = {tag["key"]: tag["value"] for tag in span["tags"]}
        span["parent"] = next((r["spanID"] for r in span["references"] if r["refType"] == "CHILD_OF"), None)
        span["service"] = data["processes"][span["processID"]]["serviceName"]
        spans[span["spanID"]] = span
    return spans


def event(span, name):
    [found] = [log for log in span["logs"] for field in log["fields"] if field["key"] == "event" and field["value"] == name]
    return found["timestamp"]


class Checks:
    def __init__(self):
        self.count, self.widest = 0, 0.0

    def equal(self, what, got, expected):
        self.count += 1
        assert got == expected, f"{what}: {got!r} instead of {expected!r}"

    def near(self, what, micros, ms):
        self.count += 1
        off = abs(micros / 1e3 - ms)
        self.widest = max(self.widest, off)
        assert off <= WITHIN_MS, f"{what}: {micros / 1e3} ms in Jaeger, {ms} ms in the access log"


def check(spans, line, checks):
    by_name = lambda name, parent=None: [
        s for s in spans.values() if s["operationName"] == name and (parent is None or s["parent"] == parent)]
    [server] = by_name(SERVER)
    tries = sorted(by_name(CLIENT), key=lambda span: span["startTime"])
    checks.equal("services", {span["service"] for span in spans.values()}, {"headway"})
    checks.equal("the caller", server["references"][0]["spanID"] if server["references"] else None, CALLER)
    checks.equal("kind", server["tags"]["span.kind"], "server")
    checks.equal("kinds of tries", [span["tags"]["span.kind"] for span in tries], ["client"] * len(line["attempts"]))
    checks.equal("parents of tries", {span["parent"] for span in tries}, {server["spanID"]})
    checks.equal("tries", [t["tags"]["headway.backend"] for t in tries], [a["backend"] for a in line["attempts"]])
    checks.equal("outcomes", [t["tags"]["headway.outcome"] for t in tries], [a["outcome"] for a in line["attempts"]])
    checks.equal("errors", [t["tags"].get("error", False) for t in tries],
                 [a["outcome"] != "complete" for a in line["attempts"]])
    last = tries[-1]
    for name, value in {
        "http.request.method": "POST", "http.route": "/v1/chat/completions", "url.scheme": "http",
        "http.response.status_code": line["status"], "headway.request_id": line["request_id"],
        "headway.route": line["route"], "headway.backend": line["backend"], "headway.outcome": line["outcome"],
        "headway.slo.ttft": line["slo"]["ttft"], "headway.kept": "head",
        "http.request.body.size": line["bytes_in"], "http.response.body.size": line["bytes_out"],
    }.items():
        checks.equal(name, server["tags"][name], value)
    for name, value in {
        "gen_ai.operation.name": "chat", "gen_ai.request.model": line["model"], "gen_ai.request.stream": True,
        "gen_ai.usage.input_tokens": line["input_tokens"], "gen_ai.usage.output_tokens": line["output_tokens"],
        "gen_ai.response.finish_reasons": json.dumps([line["finish_reason"]]),
        "http.response.status_code": line["status"], "headway.decision.reason": line["decision"]["reason"],
    }.items():
        checks.equal(name, last["tags"][name], value)
    [upload], [own] = by_name("upload", server["spanID"]), by_name("headway", server["spanID"])
    [connect], [wait], [decode] = (by_name(n, last["spanID"]) for n in ("connect", "backend wait", "decode"))
    [queue], [prefill] = by_name("engine queue", wait["spanID"]), by_name("engine prefill", wait["spanID"])
    started = server["startTime"] + upload["duration"]
    for place, span in enumerate(tries):
        checks.near(f"try {place}", span["duration"], line["attempts"][place]["ms"])
    checks.near("upload", upload["duration"], line["upload_ms"])
    checks.near("own time", own["duration"], line["overhead_us"] / 1e3)
    checks.near("connect", connect["duration"], line["connect_ms"])
    checks.near("head", event(wait, "head") - wait["startTime"], line["backend_wait_ms"])
    checks.near("TTFT", event(last, "first_token") - started, line["ttft_ms"])
    checks.near("wait", wait["startTime"] + wait["duration"] - started, line["ttft_ms"])
    checks.near("last token", event(last, "last_token") - started, line["e2e_ms"])
    checks.near("decode", decode["startTime"] + decode["duration"] - started, line["e2e_ms"])
    checks.near("decode's length", decode["duration"], line["e2e_ms"] - line["ttft_ms"])
    checks.near("engine queue", queue["duration"], line["engine_queue_ms"])
    checks.near("engine", queue["duration"] + prefill["duration"], line["engine_ttft_ms"])
    checks.equal("decisions", len([l for l in server["logs"] for f in l["fields"] if f["value"] == "decision"]), len(tries))


def waterfall(spans):
    first = min(span["startTime"] for span in spans.values())
    def show(parent, depth):
        for span in sorted((s for s in spans.values() if s["parent"] == parent), key=lambda s: (s["startTime"], -s["duration"])):
            label = "  " * depth + span["operationName"]
            print(f"  {label:<44}{(span['startTime'] - first) / 1e3:>10.3f} ms {span['duration'] / 1e3:>10.3f} ms")
            show(span["spanID"], depth + 1)
    show(CALLER, 0)


def main():
    folder = tempfile.mkdtemp()
    running = Running(folder)
    try:
        http, grpc, query, admin = (free_port() for _ in range(4))
        running.start("jaeger", JAEGER, f"--collector.otlp.http.host-port=127.0.0.1:{http}",
                      f"--collector.otlp.grpc.host-port=127.0.0.1:{grpc}", f"--query.http-server.host-port=127.0.0.1:{query}",
                      f"--query.grpc-server.host-port=127.0.0.1:{free_port()}", f"--admin.http.host-port=127.0.0.1:{admin}",
                      f"--collector.grpc-server.host-port=127.0.0.1:{free_port()}",
                      f"--collector.http-server.host-port=127.0.0.1:{free_port()}",
                      f"--http-server.host-port=127.0.0.1:{free_port()}",
                      f"--processor.jaeger-compact.server-host-port=127.0.0.1:{free_port()}",
                      f"--processor.jaeger-binary.server-host-port=127.0.0.1:{free_port()}",
                      f"--processor.zipkin-compact.server-host-port=127.0.0.1:{free_port()}")
        until("Jaeger", lambda: get(f"http://127.0.0.1:{query}/api/services"))
        nims = [free_port(), free_port()]
        for port, fault in zip(nims, (["--fault", "refuse"], [])):
            running.start(f"nim-{port}", HEADWAY, "nim", "--listen", f"127.0.0.1:{port}", "--request-metrics", *fault)
        for protocol, port in (("http/protobuf", http), ("grpc", grpc)):
            data, log, process = serve(running, folder, protocol, port, nims)
            body = {"model": "meta/llama-3.1-8b-instruct", "stream": True, "max_tokens": 40,
                    "stream_options": {"include_usage": True}, "messages": [{"role": "user", "content": "Hello " * 200}]}
            # Whichever backend comes first in turn, one of two requests begins at the busy one.
            for number in range(2):
                trace = TRACE[protocol][:-2] + f"{number}" + TRACE[protocol][-1]
                ask(data, {"traceparent": f"00-{trace}-{CALLER}-01"}, body)
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=10)
            lines = [json.loads(line) for line in open(log)]
            assert len(lines) == 2 and any(len(line["attempts"]) == 2 for line in lines), lines
            checks, seen = Checks(), {}
            for line in lines:
                seen = until("a trace", lambda: (s := spans_of(query, line["trace_id"])) and len(s) >= 10 and s)
                check(seen, line, checks)
                if len(line["attempts"]) == 2:
                    shown = seen
            print(f"{protocol}: {checks.count} checks on {len(lines)} traces read back from Jaeger; "
                  f"widest difference to the access log {checks.widest * 1e3:.0f} us")
            waterfall(shown)
    finally:
        running.end()


main()
