#!/usr/bin/env python3
"""Compares the files of `headway bench` with those that AIPerf, or GenAI-Perf, wrote of a run like it.

    tests/aiperf/schema.py OURS THEIRS

OURS and THEIRS are the folders that have the files; those that THEIRS has are compared. Numbers are not looked at: keys, their
order, types, units, the shape of each metric, the header, rows and line ends of the CSV are. Exit status 1 when a file of
ours has another name for something, another order, unit, type or shape; what one side alone has is printed.
"""

import csv
import json
import sys
from pathlib import Path

JSON = ["profile_export_aiperf.json", "profile_export_genai_perf.json"]
CSV = ["profile_export_aiperf.csv", "profile_export_genai_perf.csv"]
LINES = ["profile_export.jsonl"]
# Their values are settings, which differ in what they name.
SETTINGS = {"input_config", "run_info", "headway"}
# Numbers in JSON have one type; only JSON lines tell counts from measures.
NAMES = {int: "number", float: "number", str: "text", bool: "flag", list: "list", dict: "map", type(None): "null"}


class Findings:
    """What differs, and what one side alone has."""

    def __init__(self):
        self.wrong, self.alone = [], []

    def check(self, where, ours, theirs):
        if ours != theirs:
            self.wrong.append(f"{where}: {ours!r} is not {theirs!r}")

    def keys(self, where, ours, theirs, named=None):
        """Keys that both have must stand in the same order, as far as there is one."""
        ours, theirs = list(ours), list(theirs)
        self.alone += [f"{where}: only ours has {key}" for key in ours if key not in theirs]
        self.alone += [f"{where}: only theirs has {key}" for key in theirs if key not in ours]
        shared = [key for key in theirs if key in ours and (named is None or key in named)]
        self.check(f"{where}, order", [key for key in ours if key in shared], shared)


def kind(value, exact=False):
    return type(value).__name__ if exact and not isinstance(value, (dict, list)) else NAMES[type(value)]


def compare_json(findings, name, ours, theirs):
    ours, theirs = json.loads(ours), json.loads(theirs)
    # AIPerf's schema names its keys up to `warmup_metrics`; those that follow have no fixed order.
    order = list(theirs)
    named = set(order[: order.index("end_time") + 1]) if "end_time" in order else set(order)
    findings.keys(name, ours, theirs, named)
    metrics(findings, name, ours, theirs)
    if "warmup_metrics" in theirs and "warmup_metrics" in ours:
        findings.keys(f"{name} warmup_metrics", ours["warmup_metrics"], theirs["warmup_metrics"], set())
        metrics(findings, f"{name} warmup_metrics", ours["warmup_metrics"], theirs["warmup_metrics"])
    for setting in SETTINGS & set(ours) & set(theirs):
        nested(findings, f"{name} {setting}", ours[setting], theirs[setting])


def metrics(findings, name, ours, theirs, exact=False):
    for key in theirs:
        if key in ours and key not in SETTINGS and key != "warmup_metrics":
            findings.check(f"{name} {key}, type", kind(ours[key], exact), kind(theirs[key], exact))
            if isinstance(theirs[key], dict) and isinstance(ours[key], dict):
                findings.check(f"{name} {key}, shape", list(ours[key]), list(theirs[key]))
                findings.check(f"{name} {key}, unit", ours[key].get("unit"), theirs[key].get("unit"))
                types = [{at: kind(value, exact) for at, value in side[key].items()} for side in (ours, theirs)]
                findings.check(f"{name} {key}, types", *types)


def nested(findings, where, ours, theirs):
    """Settings: what both have must be of one type, however deep."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in ours:
            if key in theirs:
                nested(findings, f"{where}.{key}", ours[key], theirs[key])
            else:
                findings.alone.append(f"{where}: only ours has {key}")
    elif isinstance(ours, list) and isinstance(theirs, list):
        for place, (one, other) in enumerate(zip(ours, theirs)):
            nested(findings, f"{where}[{place}]", one, other)
    else:
        findings.check(f"{where}, type", kind(ours), kind(theirs))


def blocks(text):
    rows = list(csv.reader(text.splitlines()))
    cut = rows.index([])
    return rows[:cut], rows[cut + 1 :]


def compare_csv(findings, name, ours, theirs):
    ends = ["CRLF" if text.count("\r\n") == text.count("\n") else "LF" for text in (ours, theirs)]
    findings.check(f"{name}, line ends", *ends)
    for block, (one, other) in enumerate(zip(blocks(ours), blocks(theirs), strict=True)):
        findings.check(f"{name} block {block}, header", one[0], other[0])
        findings.keys(f"{name} block {block}", [row[0] for row in one[1:]], [row[0] for row in other[1:]])
        cells = {row[0]: row for row in one}
        for row in other[1:]:
            if row[0] in cells:
                empty = [[cell == "" for cell in side] for side in (cells[row[0]], row)]
                findings.check(f"{name} {row[0]}, empty cells", *empty)


def compare_lines(findings, name, ours, theirs):
    ours, theirs = [[json.loads(line) for line in text.splitlines()] for text in (ours, theirs)]
    for what in ("warmup", "profiling", "failed"):
        chosen = [[line for line in side if told_apart(line) == what] for side in (ours, theirs)]
        if not all(chosen):
            continue
        # The second, whose connection was open.
        one, other = (side[min(1, len(side) - 1)] for side in chosen)
        findings.keys(f"{name} {what}", one, other)
        for part in other:
            if part in one:
                findings.keys(f"{name} {what} {part}", one[part], other[part], set() if part == "metrics" else None)
                metrics(findings, f"{name} {what} {part}", one[part], other[part], exact=True)


def told_apart(line):
    return "failed" if line.get("error") else line["metadata"]["benchmark_phase"]


def main():
    ours, theirs = Path(sys.argv[1]), Path(sys.argv[2])
    findings = Findings()
    for names, compare in [(JSON, compare_json), (CSV, compare_csv), (LINES, compare_lines)]:
        for name in names:
            if (theirs / name).exists():
                texts = [open(folder / name, newline="").read() for folder in (ours, theirs)]
                compare(findings, name, *texts)
                print(f"compared: {name}")
    for found in findings.alone:
        print(found)
    for wrong in findings.wrong:
        print(f"WRONG: {wrong}")
    return bool(findings.wrong)


if __name__ == "__main__":
    sys.exit(main())
