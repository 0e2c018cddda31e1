#!/bin/sh
# Sends traces to a real Jaeger over both protocols and reads them back through its query API.
#
#   tests/jaeger/run.sh [FOLDER]
#
# Needs Go (with its module proxy), Python 3 and curl; slow the first time, when Jaeger is built into FOLDER (a temporary
# one by default). Not among the regular checks: `cargo test --test traces` asserts the same on the official protobufs.
set -eu

VERSION=v1.62.0
root=$(cd "$(dirname "$0")/../.." && pwd)
work=${1:-$(mktemp -d)}
mkdir -p "$work"
jaeger=$work/jaeger-$VERSION
headway=${HEADWAY:-$root/target/debug/headway}

if [ ! -x "$jaeger" ]; then
    # `go install MODULE@VERSION` refuses modules with `replace` lines, so it is built in its own source.
    source=$(go mod download -json "github.com/jaegertracing/jaeger@$VERSION" |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["Dir"])')
    rm -rf "$work/source"
    cp -r "$source" "$work/source"
    chmod -R u+w "$work/source"
    (cd "$work/source" && go build -o "$jaeger" ./cmd/all-in-one)
    rm -rf "$work/source"
fi
[ -x "$headway" ] || (cd "$root" && cargo build)

exec python3 "$root/tests/jaeger/check.py" "$jaeger" "$headway"
