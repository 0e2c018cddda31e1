#!/usr/bin/env python3
"""Figures of headway before two real engines: what it measures, what it predicts, what its baselines are worth.

    measure.py FOLDER LLAMA_SERVER HEADWAY [PART…]

Parts, all of them by default: `agree` (headway's latencies against the engine's own, request by request), `predict`
(calibrated, then loaded: predicted against actual), `start` (the first seconds with baselines and without, in turns). The
engines serve one model in two precisions, each on a core of its own. Wants a machine that is not busy: the load average is
printed with every figure.
"""

import math
import os
import statistics
import subprocess
import sys
import time

from stage import Stage

# Fast and dear, slow and cheap; by the hour.
PRICES = {"q8": 3, "f32": 1}
# What is promised on the route `chat`; the slower engine cannot keep it for many at once.
SLO = os.environ.get("ENGINE_SLO", "ttft: { p95: 1s }, itl: { p95: 30ms }")
SECONDS = int(os.environ.get("ENGINE_SECONDS", "60"))
REQUESTS = os.environ.get("ENGINE_REQUESTS", "30")
SHAPES = {
    "chat": "--isl 80 --synthetic-input-tokens-stddev 30 --osl 40 --output-tokens-stddev 15".split(),
    "batch": "--isl 400 --synthetic-input-tokens-stddev 100 --osl 80 --output-tokens-stddev 20".split(),
}
# Requests per second on chat and on batch; the first seconds are those of the middle one.
LOADS = [(1.0, 0.2), (2.5, 0.3), (4.0, 0.5)]
# Both lengths; more at once than the engines have slots for shows their queue.
CALIBRATE = "--input-tokens 80,400 --output-tokens 40 --concurrency 1,2,4,8 --requests 24 --point-time 15s".split()


def median(values):
    return statistics.median(values) if values else math.nan


def quantile(values, share):
    values = sorted(values)
    return values[min(int(share * len(values)), len(values) - 1)] if values else math.nan


def busy():
    return f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def bench(stage, name, ports, *more):
    """Starts the load generator; the folder of its report, and the process."""
    folder = os.path.join(stage.folder, f"bench-{name}")
    urls = ",".join(f"127.0.0.1:{port}" for port in ports)
    command = [stage.headway, "bench", "--streaming", "--output-tokens-mean-deterministic", "--artifact-dir", folder,
               "--url", urls, *more]
    with open(f"{folder}.out", "w") as out:
        return folder, subprocess.Popen(command, stdout=out, stderr=out)


def finish(folder, process):
    if process.wait() != 0:
        sys.exit(f"{folder}.out says why the load generator failed")


def engines(stage):
    """The profiles of one model."""
    return {"q8": stage.engine("q8", "q8", "--parallel", "4", "--ctx-size", "8192", core=0),
            "f32": stage.engine("f32", "f32", "--parallel", "8", "--ctx-size", "16384", core=1)}


def front(stage, engines, name, baselines=None):
    """headway before both, with two routes, told apart by a header."""
    backends = "".join(
        f"  - {{ name: {name}, url: 'http://127.0.0.1:{engine.port}', profile: llamacpp-cpu-{name}, "
        f"models: [tiny, tiny-{name}], price: {{ per_gpu_hour: {PRICES[name]} }}, "
        "metrics: { path: /metrics, interval: 1s } }\n"
        for name, engine in engines.items())
    both = f"backends: [{', '.join(engines)}]"
    routes = (f"  - {{ name: batch, match: {{ headers: {{ x-tier: batch }} }}, {both}, slo: {{ e2e: {{ p95: 30s }} }} }}\n"
              f"  - {{ name: chat, {both}, slo: {{ {SLO} }} }}\n")
    return stage.proxy(backends, routes, name=name, more=f"baselines: {baselines}\n" if baselines else "")


def ended(proxy):
    proxy.process.terminate()
    proxy.process.wait()


def agree(stage, engines):
    """Each engine, asked directly and through headway in turns; then headway's view against the engine's own."""
    proxy = front(stage, engines, "agree")
    for name, engine in engines.items():
        for concurrency in (1, 4):
            before = len(proxy.lines())
            folder, process = bench(
                stage, f"agree-{name}-{concurrency}", [engine.port, proxy.port], "-m", f"tiny-{name}",
                "--concurrency", str(concurrency), "--isl", "128", "--osl", "64", "--request-count", REQUESTS,
                "--warmup-request-count", "2",
                # The two take turns with the same prompts, which the second would find cached.
                "--extra-inputs", "cache_prompt:false")
            finish(folder, process)
            # Those of two tokens are the load generator's own, which asks how long its prompts are.
            lines = [line for line in proxy.lines()[before:] if line["output_tokens"] == 64]
            print(f"{name}, {concurrency} at once: {len(lines)} requests, {busy()}")
            against_the_engine(lines)
            side_by_side(f"{folder}.out")
    ended(proxy)


def against_the_engine(lines):
    def of(field):
        return median([line[field] for line in lines])
    outside = [line["ttft_ms"] - line["engine_prefill_ms"] for line in lines]
    gap = [line["itl_ms"] - line["engine_itl_ms"] for line in lines]
    off = [abs(line["itl_ms"] / line["engine_itl_ms"] - 1) for line in lines]
    print(f"  TTFT {of('ttft_ms'):.2f} ms, the engine's prefill {of('engine_prefill_ms'):.2f}; outside it "
          f"{median(outside):.3f} (p95 {quantile(outside, 0.95):.3f}), of which {of('overhead_us') / 1e3:.3f} in headway")
    print(f"  ITL {of('itl_ms'):.3f} ms, the engine's {of('engine_itl_ms'):.3f}; between them {median(gap):+.4f} ms, "
          f"off by {median(off):.2%} (p95 {quantile(off, 0.95):.2%})", flush=True)


def side_by_side(path):
    """The rows of the load generator's last table: the engine, then headway."""
    with open(path) as lines:
        rows = [line.replace("│", "|").split() for line in lines if " at once │" in line]
    print("\n".join("  " + " ".join(row) for row in rows), flush=True)


def load(stage, proxy, name, rates):
    """Both routes at these rates for so long; the access log's lines of it."""
    before = len(proxy.lines())
    running = []
    for tier, rate in zip(SHAPES, rates):
        # No prompt comes twice: it would be cached.
        load.seed += 1
        running.append(bench(
            stage, f"{name}-{tier}", [proxy.port], "-m", "tiny", "--request-rate", str(rate),
            "--measurement-interval", str(SECONDS * 1000), "--random-seed", str(load.seed), "--num-prompts", "2000",
            "--header", f"x-tier: {tier}", *SHAPES[tier]))
    for one in running:
        finish(*one)
    # Those of two tokens are the load generator's own.
    return [line for line in proxy.lines()[before:] if line.get("output_tokens", 0) != 2]


load.seed = 0


def pairs(lines, latency):
    """Predicted, bound, actual of those that have all three."""
    for line in lines:
        decision = line.get("decision", {})
        told = decision.get(f"predicted_{latency}_ms"), decision.get(f"bound_{latency}_ms"), line.get(f"{latency}_ms")
        if line["outcome"] == "complete" and all(told):
            yield told


def accuracy(lines):
    for name in PRICES:
        own = [line for line in lines if line.get("backend") == name]
        for latency in ("ttft", "itl"):
            found = list(pairs(own, latency))
            if not found:
                continue
            off = [math.log(actual / predicted) for predicted, _, actual in found]
            held = sum(actual <= bound for _, bound, actual in found) / len(found)
            predicted, _, actual = (median(values) for values in zip(*found))
            print(f"  {name}, {latency}: {len(found)} requests, median |ln(actual/predicted)| "
                  f"{median([abs(one) for one in off]):.3f} (signed {median(off):+.3f}), within the bound {held:.1%}; "
                  f"medians {actual:.1f} ms actual, {predicted:.1f} predicted", flush=True)


def attainment(lines):
    chat = [line for line in lines if line.get("route") == "chat"]
    judged = [line["slo"] for line in chat if "slo" in line]
    good = {key: sum(one.get(key) == "good" for one in judged) for key in ("ttft", "itl", "joint")}
    kept = ", ".join(f"{key} {count / max(len(judged), 1):.1%}" for key, count in good.items())
    where = ", ".join(f"{name} {sum(line.get('backend') == name for line in chat)}" for name in PRICES)
    return f"chat kept {kept} of {len(judged)} ({where})"


def calibrated(stage, engines):
    """Baselines of both engines, by `headway calibrate`."""
    out = os.path.join(stage.folder, "baselines.yaml")
    proxy = front(stage, engines, "calibrate")
    # It refuses backends in service.
    ended(proxy)
    command = [stage.headway, "calibrate", "--config", proxy.config, "--out", out, *CALIBRATE]
    print(" ".join(command[1:]), busy(), flush=True)
    begun = time.monotonic()
    if subprocess.run(command).returncode != 0:
        sys.exit("it could not be calibrated")
    print(f"{time.monotonic() - begun:.0f} s, {busy()}", flush=True)
    return out


def predict(stage, engines, baselines):
    for kind, path in (("with baselines", baselines), ("without", None)):
        proxy = front(stage, engines, f"predict-{kind.split()[0]}", path)
        for number, rates in enumerate(LOADS):
            lines = load(stage, proxy, f"{kind.split()[0]}-{number}", rates)
            print(f"{kind}, {rates[0]} + {rates[1]} requests/s for {SECONDS} s, {busy()}: {attainment(lines)}")
            accuracy(lines)
        ended(proxy)


def start(stage, engines, baselines):
    """The first seconds of a headway that was started with baselines, and of one without, in turns."""
    all_lines = {"with baselines": [], "without": []}
    for turn in range(3):
        for kind, path in (("with baselines", baselines), ("without", None)):
            proxy = front(stage, engines, f"start-{kind.split()[0]}-{turn}", path)
            lines = load(stage, proxy, f"start-{kind.split()[0]}-{turn}", LOADS[1])
            all_lines[kind] += lines
            print(f"turn {turn}, {kind}, {busy()}: {attainment(lines)}", flush=True)
            ended(proxy)
    for kind, lines in all_lines.items():
        print(f"first {SECONDS} s, {kind}: {attainment(lines)}")
        accuracy(lines)


def main(folder, server, headway, *parts):
    stage = Stage(folder, server, headway)
    wanted = parts or ("agree", "predict", "start")
    try:
        both = engines(stage)
        if "agree" in wanted:
            agree(stage, both)
        if {"predict", "start"} & set(wanted):
            baselines = os.environ.get("ENGINE_BASELINES") or calibrated(stage, both)
            for part in (start, predict):
                if part.__name__ in wanted:
                    part(stage, both, baselines)
    finally:
        stage.end()


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
