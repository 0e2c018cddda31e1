#!/usr/bin/env python3
"""Holds the dependency tree to .deny.toml: banned names, licences, sources. Needs Python 3.11 and cargo.

The advisory database is not asked; `cargo deny` does that, from the same file.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def licensed(expression, allowed):
    """Whether an SPDX expression can be met with allowed licences; the old `/` means OR."""
    def verdict(match):
        return str(match.group(0).strip() in allowed)

    text = expression.replace("/", " OR ")
    parts = re.split(r"(\(|\)|\bOR\b|\bAND\b)", text)
    words = {"OR": "or", "AND": "and", "(": "(", ")": ")"}
    terms = [words.get(part, re.sub(r"\S.*\S|\S", verdict, part)) for part in parts]
    return eval(" ".join(terms))  # nothing but True, False, and, or, parentheses is left


def main():
    rules = tomllib.loads((ROOT / ".deny.toml").read_text())
    banned = {entry["name"] for entry in rules["bans"]["deny"]}
    allowed = set(rules["licenses"]["allow"])
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    packages = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)["packages"]
    problems, used = [], set()
    for package in packages:
        name = f"{package['name']} {package['version']}"
        source = package["source"]
        if package["name"] in banned:
            problems.append(f"{name} is banned")
        if source and not source.startswith("registry+"):
            problems.append(f"{name} comes from {source}")
        if source and not licensed(package["license"] or "none", allowed):
            problems.append(f"{name} has the licence {package['license']}")
        used.update(part for part in allowed if part in (package["license"] or ""))
    registries = {package["source"] for package in packages} - {None}
    if len(registries) > 1:
        problems.append(f"packages come from more than one registry: {sorted(registries)}")
    problems += [f".deny.toml allows {licence}, which nothing uses" for licence in sorted(allowed - used)]
    print("\n".join(problems) or f"{len(packages)} packages: none banned, licences and sources as allowed")
    return 1 if problems else 0


sys.exit(main())
