#!/usr/bin/env python3
"""Measures one server with AIPerf and with `headway bench` in turns, and holds both against what the server did.

    tests/aiperf/alternate.py --url URL --truth truth.jsonl --tokenizer DIR --stream plain=MODEL [--rounds 5]

With `--genai-perf` it takes turns too; it sends no request ids, so it is in the first table only.

TRUTH is a file with one JSON object per request, as `headway nim --truth` writes it: `x_request_id`, `ttft_ms`,
`last_ms`, `itl_ms`, `tokens`, the times counted from the whole request. A stream is NAME=MODEL or NAME=MODEL=JSON,
where JSON is what every body of it has besides, such as tools; repeat it for several.

Two tables for each stream. The first compares the reports: each round's difference between the two programs, as the
median over the rounds and its range. A server is never twice the same, so the second compares requests: what each
program said of a request less what the server says of the same request. No noise of the server is in it.

Exit status 1 when headway's median error is above 1 % (of a time to a token: above 1 ms) and further from the truth than AIPerf's,
or a count of tokens is not exact.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from join import LATENCIES, TOKENS, first_of, logged, percentile

# Metrics that both programs report; what of each, and whether it is judged by 1 ms instead of 1 %.
SHARED = [
    ("time_to_first_token", True),
    ("time_to_first_output_token", True),
    ("time_to_second_token", True),
    ("request_latency", False),
    ("inter_token_latency", False),
    ("inter_chunk_latency", False),
    ("decode_duration", False),
    ("output_token_throughput_per_user", False),
    ("e2e_output_token_throughput", False),
    ("output_sequence_length", False),
    ("output_token_count", False),
    ("reasoning_token_count", False),
    ("output_token_throughput", False),
    ("request_throughput", False),
    ("request_count", False),
]
STATISTICS = ["avg", "p50"]
PER_CENT, MILLISECOND = 0.01, 1.0


def aiperf(options, model, extra, folder, seed):
    """Runs AIPerf; the folder with its files."""
    command = [
        options.aiperf, "profile", "--url", options.url, "--model", model, "--tokenizer", options.tokenizer,
        "--endpoint-type", "chat", "--streaming", "--use-server-token-count", "--ui", "none",
        "--no-gpu-telemetry", "--no-server-metrics", "--random-seed", str(seed),
        "--concurrency", str(options.concurrency), "--request-count", str(options.requests),
        "--warmup-request-count", str(options.warmup), "--isl", str(options.isl), "--osl", str(options.osl),
        "--extra-inputs", json.dumps({"ignore_eos": True, **extra}), "--artifact-dir", str(folder),
    ]  # fmt: skip
    # With these set, AIPerf takes a tokenizer's path for a name on a hub.
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    run(command, folder, environment)
    return folder


def headway(options, model, extra, folder, seed):
    """Runs `headway bench`; the folder with its files."""
    command = [
        options.headway, "bench", "--url", options.url, "--model", model, "--endpoint-type", "chat", "--streaming",
        "--random-seed", str(seed), "--concurrency", str(options.concurrency),
        "--request-count", str(options.requests), "--warmup-request-count", str(options.warmup),
        "--isl", str(options.isl), "--osl", str(options.osl), "--artifact-dir", str(folder),
        "--extra-inputs", json.dumps({"ignore_eos": True, **extra}),
    ]  # fmt: skip
    run(command, folder, None)
    return next(folder.glob("*-openai-chat-*"))


def run(command, folder, environment):
    folder.mkdir(parents=True)
    with open(folder / "output.txt", "w") as output:
        subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT, check=True, timeout=900)


def genai_perf(options, model, extra, folder, seed):
    """Runs GenAI-Perf, which finds `perf_analyzer` on the path; the folder with its files."""
    command = [
        options.genai_perf, "profile", "-m", model, "--endpoint-type", "chat", "--streaming",
        "-u", options.url.removeprefix("http://"), "--tokenizer", options.tokenizer, "--random-seed", str(seed),
        "--concurrency", str(options.concurrency), "--request-count", str(options.requests),
        "--warmup-request-count", str(options.warmup), "--synthetic-input-tokens-mean", str(options.isl),
        "--output-tokens-mean", str(options.osl), "--artifact-dir", str(folder),
        "--extra-inputs", json.dumps({"ignore_eos": True, "max_tokens": options.osl, **extra}),
    ]  # fmt: skip
    path = f"{Path(options.genai_perf).parent}:{os.environ['PATH']}"
    run(command, folder, {**os.environ, "PATH": path})
    return next(folder.glob("*-openai-chat-*"))


PROGRAMS = {"AIPerf": aiperf, "headway": headway, "GenAI-Perf": genai_perf}
FILES = {"AIPerf": "profile_export_aiperf.json", "GenAI-Perf": "profile_export_genai_perf.json"}


def shared(folders, other):
    """Rows of the first table: metric, statistic, both medians, the difference's median and range, whether it is off."""
    reports = {
        name: [json.loads((folder / FILES[other]).read_text()) for folder in folders[name]] for name in (other, "headway")
    }
    for metric, in_milliseconds in SHARED:
        for statistic in STATISTICS:
            values = {
                name: [report[metric][statistic] for report in rounds if statistic in report.get(metric, {})]
                for name, rounds in reports.items()
            }
            theirs, ours = values[other], values["headway"]
            if not theirs:
                continue
            if len(theirs) != len(ours):
                yield f"{metric} {statistic}", theirs, ours, [], "only one has it"
                continue
            differences = [our - their for our, their in zip(ours, theirs)]
            middle = statistics.median(differences)
            bar = MILLISECOND if in_milliseconds else PER_CENT * abs(statistics.median(theirs))
            yield f"{metric} {statistic}", theirs, ours, differences, "off" if abs(middle) > bar else ""


def requests(folders):
    """Request id → metrics, of every round of one program."""
    found = {}
    for folder in folders:
        for line in (folder / "profile_export.jsonl").read_text().splitlines():
            record = json.loads(line)
            if record["metadata"]["benchmark_phase"] == "profiling" and not record.get("error"):
                found[record["metadata"]["x_request_id"]] = record["metrics"]
    return found


def against_truth(folders, truth):
    """Rows of the second table: quantity, program, and its differences from the truth."""
    for name, metric, keys in [*LATENCIES, ("OSL", "output_sequence_length", TOKENS)]:
        for program in ("AIPerf", "headway"):
            measured = requests(folders[program])
            pairs = [(of[metric]["value"], truth.get(id)) for id, of in measured.items() if metric in of]
            pairs = [(value, first_of(true, keys)) for value, true in pairs if true]
            pairs = [(value, true) for value, true in pairs if true is not None]
            if pairs:
                yield name, program, pairs
    for program in ("AIPerf", "headway"):
        pairs = [(reported(folder), seen(folder, truth)) for folder in folders[program]]
        pairs = [pair for pair in pairs if pair[1]]
        if pairs:
            yield "requests/s", program, pairs


def reported(folder):
    return json.loads((folder / FILES["AIPerf"]).read_text())["request_throughput"]["avg"]


def seen(folder, truth):
    """Requests per second as the server saw them, where it says when they came."""
    records = [truth[id] for id in requests([folder]) if id in truth]
    spans = [(one["received_unix_ms"], one["received_unix_ms"] + one["last_ms"]) for one in records if "received_unix_ms" in one]
    return spans and 1e3 * len(spans) / (max(end for _, end in spans) - min(start for start, _ in spans))


def show(title, heads, rows):
    print(f"\n{title}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def first_table(folders, other):
    rows = []
    for name, theirs, ours, differences, verdict in shared(folders, other):
        cells = [f"{statistics.median(values):.3f}" if values else "–" for values in (theirs, ours)]
        if differences:
            middle, base = statistics.median(differences), statistics.median(theirs)
            relative = f"{100 * middle / base:+.2f} %" if base else "–"
            cells += [f"{middle:+.3f}", relative, f"{min(differences):+.3f} to {max(differences):+.3f}"]
        else:
            cells += ["–", "–", "–"]
        rows.append([name, *cells, verdict])
    return rows


def second_table(folders, truth):
    """Its rows, and in what headway is wrong."""
    rows, wrong, errors = [], [], {}
    for name, program, pairs in against_truth(folders, truth):
        differences = [value - true for value, true in pairs]
        relative = [abs(value - true) / true for value, true in pairs if true]
        sizes = sorted(abs(difference) for difference in differences)
        middle = errors[program] = statistics.median(differences)
        rows.append([
            name, program, str(len(pairs)), f"{middle:+.3f}", f"{percentile(sizes, 0.5):.3f}",
            f"{percentile(sizes, 0.99):.3f}", f"{max(differences, key=abs):+.3f}", f"{100 * max(relative, default=0):.2f} %",
        ])  # fmt: skip
        if program == "headway":
            usual = statistics.median(true for _, true in pairs)
            bar = {"TTFT": MILLISECOND, "TTFO": MILLISECOND, "OSL": 0}.get(name, PER_CENT * usual)
            if abs(middle) > bar and abs(middle) > abs(errors.get("AIPerf", 0)):
                wrong.append(f"{name} is off by {middle:+.3f}")
    return rows, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--truth", required=True, type=Path)
    parser.add_argument("--tokenizer", required=True, help="for AIPerf's prompts: a folder or a name")
    parser.add_argument("--stream", action="append", required=True, metavar="NAME=MODEL[=JSON]")
    parser.add_argument("--aiperf", default="aiperf")
    parser.add_argument("--genai-perf", help="the program, where it is to take turns too")
    parser.add_argument("--headway", default="target/release/headway")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--isl", type=int, default=50)
    parser.add_argument("--osl", type=int, default=100)
    parser.add_argument("--artifacts", type=Path, default=Path("alternated"), help="a folder that is not there yet")
    options = parser.parse_args()

    folders = {}
    for stream in options.stream:
        name, model, extra = (stream.split("=", 2) + ["{}"])[:3]
        programs = [program for program in PROGRAMS if program != "GenAI-Perf" or options.genai_perf]
        folders[name] = {program: [] for program in programs}
        for number in range(options.rounds):
            # A B, B A, A B, …: what drifts with time is the same for both.
            for program in programs[:: -1 if number % 2 else 1]:
                folder = options.artifacts / name / f"{number}-{program}"
                folders[name][program].append(
                    PROGRAMS[program](options, model, json.loads(extra), folder, number + 1)
                )
    truth = logged(options.truth)
    wrong = []
    for name, measured in folders.items():
        for other in [program for program in measured if program != "headway"]:
            title = f"{name}: {options.rounds} rounds of {options.requests} requests"
            heads = ["metric", other, "headway", "difference", "relative", "range over the rounds", ""]
            show(title, heads, first_table(measured, other))
        rows, off = second_table(measured, truth)
        heads = ["", "program", "requests", "median error", "median size", "p99 size", "worst", "worst relative"]
        show(f"{name}: each request less the server's truth, ms and tokens", heads, rows)
        wrong += [f"{name}: {what}" for what in off]
    for what in wrong:
        print(f"\nWRONG: {what}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
