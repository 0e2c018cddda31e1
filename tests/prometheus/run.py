#!/usr/bin/env python3
"""Asks a real Prometheus, which scrapes a running `headway demo`, everything that the dashboard and the rules ask.

    tests/prometheus/run.py target/debug/headway [SECONDS]

After SECONDS (60) of load every query of config/grafana/headway.json must return data, every recording rule must have
recorded, and every alert's expression must have data once its comparisons are taken off. So no panel is empty, and no alert
is silent because it asks for something that is not there. What only comes with parts that this headway does not show (GPUs, certificates, splits,
engines' metrics, spans) is excepted, by name. The page must be clean by promtool, and small, before and after; and an exchange
with a trace must be found from the buckets it fell into.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "config/prometheus/rules.yaml"
DASHBOARD = ROOT / "config/grafana/headway.json"
PATIENCE = 30.0
# A scrape may take so many bytes and seconds.
MOST_BYTES, MOST_SECONDS = 2 << 20, 0.1
# What stands for Grafana's variables.
VARIABLES = {"$__rate_interval": "30s", "$route": ".*", "$backend": ".*"}
# Families that need something the demo may not have; queries of those that are on the page are not excepted.
OPTIONAL = re.compile(r"headway_(?:gpu_\w+|engine_\w+|spans_\w+|certificate_\w+|split_\w+)")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def get(url, headers=None):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=10) as answer:
        return answer.read().decode()


def until(what, condition, patience=PATIENCE):
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit(f"waited in vain for {what}")


def panels():
    """Title and expression of every target."""
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            yield f"panel {panel['title']!r}", expression
    for annotation in dashboard["annotations"]["list"]:
        yield f"annotation {annotation['name']!r}", without_comparison(annotation["expr"])


def without_comparison(expression):
    """What is compared, whether with a number or with another series; of hours ago, taken now: no demo is that old."""
    number, series = r"[\d.]+", r"on \([^)]*\)\s*[\w:]+"
    compared = re.sub(rf"\s*(==|!=|>=|<=|>|<)\s*({number}|{series})\s*$", "", expression.strip())
    return re.sub(r"\s+offset \d+h", "", compared)


def rules():
    """Name and expression of every recording rule, and of every part of an alert. The file is ours: no YAML library."""
    block = re.compile(r"- (record|alert): (\S+)\n\s+expr: (?:\|\n((?:\s{10,}.*\n)+)|(.*)\n)")
    for kind, name, many, one in block.findall(RULES.read_text()):
        expression = many or one
        if kind == "record":
            yield f"rule {name}", name
            continue
        for part in re.split(r"\n\s*and on \([^)]*\)", expression):
            yield f"alert {name}", without_comparison(part)


def ask(prometheus, expression):
    query = urllib.parse.urlencode({"query": expression})
    answer = json.loads(get(f"{prometheus}/api/v1/query?{query}"))
    assert answer["status"] == "success", answer
    return answer["data"]["result"]


def finite(result):
    return [one for one in result if one["value"][1] not in ("NaN", "+Inf", "-Inf")]


def check_page(admin):
    """The page itself, in both formats: clean by promtool, small, quick."""
    began = time.monotonic()
    text = get(f"{admin}/metrics")
    took = time.monotonic() - began
    assert len(text) < MOST_BYTES, f"{len(text)} bytes"
    promtool = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True)
    assert promtool.returncode == 0 and not promtool.stderr.strip(), promtool.stderr + promtool.stdout
    opened = get(f"{admin}/metrics", {"Accept": "application/openmetrics-text; version=1.0.0"})
    assert opened.endswith("# EOF\n"), opened[-200:]
    print(f"page: {len(text)} bytes, {text.count(chr(10))} lines, {took * 1e3:.1f} ms; OpenMetrics: {len(opened)} bytes")
    if took > MOST_SECONDS:
        print(f"  (more than {MOST_SECONDS} s: not a failure here, where debug builds run on busy machines)")
    return text


def check_queries(prometheus, page):
    excepted, empty, count = set(), [], 0
    for what, expression in [*panels(), *rules()]:
        missing = {name for name in OPTIONAL.findall(expression) if f"\n{name}{{" not in page and f"\n{name} " not in page}
        if missing:
            excepted |= missing
            continue
        count += 1
        result = ask(prometheus, expression)
        if not finite(result):
            empty.append(f"{what}: {expression}\n    -> {result[:2]}")
    print(f"{count} queries have data" if not empty else f"{len(empty)} of {count} queries have none:")
    for one in empty:
        print("  " + one)
    if excepted:
        print("excepted, for this headway does not show them: " + ", ".join(sorted(excepted)))
    return not empty


def check_exemplar(data, prometheus):
    """An exchange with a trace can be found from the bucket it fell into."""
    trace = os.urandom(16).hex()
    model = json.loads(get(f"{data}/v1/models"))["data"][0]["id"]
    body = {"model": model, "stream": True, "max_tokens": 8, "messages": [{"role": "user", "content": "Tell me about trains."}]}
    headers = {"content-type": "application/json", "traceparent": f"00-{trace}-{os.urandom(8).hex()}-01"}
    request = urllib.request.Request(f"{data}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.read().decode().rstrip().endswith("[DONE]")
    for family in ("time_to_first_token", "inter_token_latency", "request_duration"):
        query = urllib.parse.urlencode({"query": f"headway_{family}_seconds_bucket", "start": time.time() - 300, "end": time.time() + 5})
        url = f"{prometheus}/api/v1/query_exemplars?{query}"
        until(f"the exemplar of {family}", lambda: trace in get(url))
    print("exemplars of TTFT, ITL and duration lead to the trace")


def check_rules(prometheus):
    groups = json.loads(get(f"{prometheus}/api/v1/rules"))["data"]["groups"]
    bad = [rule for group in groups for rule in group["rules"] if rule["health"] != "ok"]
    firing = [rule["name"] for group in groups for rule in group["rules"] if rule.get("state") == "firing"]
    print(f"{sum(len(group['rules']) for group in groups)} rules evaluated; firing: {', '.join(firing) or 'none'}")
    for rule in bad:
        print(f"  {rule['name']}: {rule['health']} {rule.get('lastError')}")
    return not bad


def demo_arguments(headway):
    """With GPUs where this headway can show them."""
    said = subprocess.run([headway, "demo", "--fake-gpu", "--duration", "1s", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
                          text=True, capture_output=True, stdin=subprocess.DEVNULL)
    return ["--fake-gpu"] if said.returncode == 0 else []


def main():
    headway = sys.argv[1]
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
    folder = Path(tempfile.mkdtemp())
    data, admin_at, prometheus_at = (f"127.0.0.1:{free_port()}" for _ in range(3))
    admin, prometheus = f"http://{admin_at}", f"http://{prometheus_at}"
    shutil.copy(RULES, folder)
    (folder / "prometheus.yaml").write_text(
        "global: { scrape_interval: 1s, evaluation_interval: 1s }\nrule_files: [rules.yaml]\n"
        f"scrape_configs: [{{ job_name: headway, static_configs: [{{ targets: ['{admin_at}'] }}] }}]\n"
    )
    arguments = demo_arguments(headway)
    processes = []
    try:
        processes.append(subprocess.Popen(
            [headway, "demo", "--duration", "0", "--listen", data, "--admin", admin_at, *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        until("headway", lambda: "ok" in get(f"{admin}/healthz"))
        check_page(admin)
        processes.append(subprocess.Popen(
            ["prometheus", f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address={prometheus_at}", "--enable-feature=exemplar-storage", "--log.level=error"],
            stdout=subprocess.DEVNULL))
        until("Prometheus", lambda: get(f"{prometheus}/-/ready"))
        time.sleep(seconds)
        target = json.loads(get(f"{prometheus}/api/v1/targets"))["data"]["activeTargets"][0]
        assert target["health"] == "up", target
        print(f"Prometheus scraped for {seconds:.0f} s; the last scrape took {target['lastScrapeDuration'] * 1e3:.1f} ms")
        check_exemplar(f"http://{data}", prometheus)
        page = check_page(admin)
        good = check_queries(prometheus, page)
        sys.exit(0 if check_rules(prometheus) and good else 1)
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    os.environ.setdefault("RUST_LOG", "warn")
    main()
