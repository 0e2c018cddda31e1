#!/usr/bin/env python3
"""What a load generator costs: CPU seconds per million streamed events, several programs in turns against one server.

    tests/aiperf/cost.py --url URL --truth truth.jsonl --tokenizer DIR [--llm-bench llm-bench] [--rounds 5]

URL is a simulated NIM (`headway nim --truth`), TRUTH the file it writes: its tokens say how many events a program was sent.
Each program runs twice a round, with few requests and with many; the difference is what events cost (and the requests
that brought them), the rest is what starting costs. Answers are as long as the server makes them: not every program
can ask for more. CPU is user and system time of the program and of every process it started, also of those that it
did not wait for. `--pin` gives the program one core, so that a server on another is not disturbed.
"""

import argparse
import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
# Tokens that an answer may have.
LONGEST = 2000


def spent():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(command, pin):
    """CPU and wall seconds of a command and all that it starts."""
    before, began = spent(), time.monotonic()
    command = (["taskset", "-c", pin] if pin else []) + command
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900)
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stdout.decode()[-2000:]}")
    while True:  # Orphans come to us.
        try:
            os.wait()
        except ChildProcessError:
            return spent() - before, time.monotonic() - began


def headway(options, requests, folder):
    return [
        options.headway, "bench", "-m", options.model, "-u", options.url, "--streaming", "--concurrency",
        str(options.streams), "--request-count", str(requests), "--isl", "50", "--osl", str(LONGEST),
        "--no-prompt-calibration", "--artifact-dir", folder,
    ]  # fmt: skip


def aiperf(options, requests, folder):
    return [
        options.aiperf, "profile", "--model", options.model, "--url", options.url, "--endpoint-type", "chat", "--streaming",
        "--concurrency", str(options.streams), "--request-count", str(requests), "--isl", "50", "--osl", str(LONGEST),
        "--use-server-token-count", "--tokenizer", options.tokenizer, "--ui", "none",
        "--no-gpu-telemetry", "--no-server-metrics", "--artifact-dir", folder,
    ]  # fmt: skip


def llm_bench(options, requests, _folder):
    return [
        options.llm_bench, "run", "--models", f"openai:{options.model}", "--openai-base-url", options.url, "--stream",
        "--runs", str(requests), "--concurrency", str(options.streams), "--max-tokens", str(LONGEST),
        "--prompts", "one two three four five",
    ]  # fmt: skip


def sent(truth, offset):
    """Tokens that the server sent since that place in its file, once the file is still."""
    size = -1
    while size != (size := truth.stat().st_size):
        time.sleep(0.3)
    with open(truth) as lines:
        lines.seek(offset)
        return sum(json.loads(line)["tokens"] for line in lines)


def measure(options, program, requests):
    offset = options.truth.stat().st_size if options.truth.exists() else 0
    with tempfile.TemporaryDirectory() as folder:
        cpu, wall = run(program(options, requests, f"{folder}/files"), options.pin)
    return cpu, wall, sent(options.truth, offset)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--truth", required=True, type=Path)
    parser.add_argument("--tokenizer", required=True, help="for AIPerf's prompts: a folder or a name")
    parser.add_argument("--model", default="meta/llama-3.1-8b-instruct")
    parser.add_argument("--headway", default="target/release/headway")
    parser.add_argument("--aiperf", default="aiperf")
    parser.add_argument("--llm-bench", help="a load tool in Rust that reads event streams (crates.io: llm-bench)")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--few", type=int, default=1, help="requests of each stream")
    parser.add_argument("--many", type=int, default=11)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pin", help="the core the programs run on")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    programs = {"headway bench": headway, "AIPerf": aiperf}
    if options.llm_bench:
        programs["llm-bench"] = llm_bench
    found = {name: [] for name in programs}
    for number in range(options.rounds):
        for name in list(programs)[:: -1 if number % 2 else 1]:
            small, large = (
                measure(options, programs[name], times * options.streams) for times in (options.few, options.many)
            )
            per_million = (large[0] - small[0]) / (large[2] - small[2]) * 1e6
            start = small[0] - per_million * small[2] / 1e6
            found[name].append((per_million, start, large[0], large[1], large[2]))
            print(
                f"{name}: {per_million:.2f} s per million, {start:.2f} s to start; {large[0]:.2f} s of CPU "
                f"in {large[1]:.1f} s for {large[2]} tokens", flush=True,
            )  # fmt: skip
    print(f"\n{options.streams} streams, {options.few} and {options.many} requests each, {options.rounds} rounds\n")
    print("| program | CPU s per million events | range | CPU s to start and report | tokens/s |\n|---|---|---|---|---|")
    for name, rounds in found.items():
        costs = [one[0] for one in rounds]
        start, rate = statistics.median(one[1] for one in rounds), statistics.median(one[4] / one[3] for one in rounds)
        middle, least, most = statistics.median(costs), min(costs), max(costs)
        print(f"| {name} | {middle:.2f} | {least:.2f} to {most:.2f} | {start:.2f} | {rate:,.0f} |")


if __name__ == "__main__":
    main()
