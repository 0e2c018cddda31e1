#!/usr/bin/env python3
"""Compares what AIPerf measured, request by request, with what headway, or the backend itself, wrote down.

    tests/aiperf/join.py ARTIFACTS LOG [--lenient]

ARTIFACTS is the folder that AIPerf wrote; LOG is headway's access log in JSON, or any file with one JSON object per
line that has `x_request_id` or `request_id` and the fields below. AIPerf sends a request id of its own with every
request, headway logs it, so that records pair one to one.

Exit status 1 when a request is missing in LOG, when the inter-token latency of any request is not within 1 % of the
logged one, or when a token count differs. Times to the first token and end to end are printed, not judged:
the referee's own scheduling is part of them. `--lenient` prints only.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

# AIPerf's metric, and what it may be called in a log, in milliseconds.
LATENCIES = [
    ("TTFT", "time_to_first_token", ["ttft_ms"]),
    ("TTFO", "time_to_first_output_token", ["ttfo_ms"]),
    ("ITL", "inter_token_latency", ["itl_ms"]),
    ("E2E", "request_latency", ["e2e_ms", "last_ms"]),
]
TOKENS = ["output_tokens", "tokens"]
ITL_TOLERANCE = 0.01


def refereed(folder):
    """Request id → AIPerf's metrics, and how many requests it calls failed; warm-up left out."""
    metrics, failed = {}, 0
    for line in Path(folder, "profile_export.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["metadata"]["benchmark_phase"] != "profiling":
            continue
        if record.get("error"):
            failed += 1
        else:
            metrics[record["metadata"]["x_request_id"]] = record["metrics"]
    return metrics, failed


def logged(file):
    records = {}
    with open(file) as lines:
        for line in lines:
            record = json.loads(line)
            records[record.get("x_request_id") or record.get("request_id")] = record
    return records


def first_of(record, names):
    return next((record[name] for name in names if record.get(name) is not None), None)


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def compare(pairs, metric, names):
    """Referee less log, in ms, and the same relative to the log."""
    both = [(theirs[metric]["value"], first_of(ours, names)) for theirs, ours in pairs if metric in theirs]
    both = [(theirs, ours) for theirs, ours in both if ours is not None]
    return [theirs - ours for theirs, ours in both], [abs(theirs - ours) / ours for theirs, ours in both if ours]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts")
    parser.add_argument("log")
    parser.add_argument("--lenient", action="store_true", help="print, and judge nothing")
    options = parser.parse_args()

    metrics, failed = refereed(options.artifacts)
    records = logged(options.log)
    pairs = [(theirs, records[name]) for name, theirs in metrics.items() if name in records]
    wrong = []
    print(f"requests: AIPerf calls {len(metrics)} good and {failed} failed; {len(pairs)} of the good ones are in the log")
    if len(pairs) < len(metrics) or not pairs:
        wrong.append("requests are missing in the log")

    for name, metric, names in LATENCIES:
        differences, relative = compare(pairs, metric, names)
        if not differences:
            continue
        median, p99, worst = statistics.median(differences), percentile(differences, 0.99), max(differences, key=abs)
        print(
            f"{name:4}: {len(differences):4} compared, AIPerf less log: median {median:+.3f} ms, p99 {p99:+.3f} ms, "
            f"worst {worst:+.3f} ms, worst relative {max(relative, default=0):.3%}"
        )
        if name == "ITL" and max(relative, default=0) > ITL_TOLERANCE:
            wrong.append(f"an inter-token latency differs by {max(relative):.2%}")

    counts = [(theirs.get("output_sequence_length", {}).get("value"), first_of(ours, TOKENS)) for theirs, ours in pairs]
    differing = [pair for pair in counts if pair[0] != pair[1]]
    print(f"output tokens: {len(counts) - len(differing)} of {len(counts)} exact; (AIPerf, log): {differing[:3]}")
    if differing:
        wrong.append("token counts differ")
    for what in wrong:
        print(f"WRONG: {what}")
    return bool(wrong) and not options.lenient


if __name__ == "__main__":
    sys.exit(main())
