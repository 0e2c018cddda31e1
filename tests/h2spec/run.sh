#!/usr/bin/env bash
# h2spec, the conformance test of HTTP/2, against a TLS listener and an h2c listener of a headway before a simulated NIM.
# Needs Go (h2spec is built from its module), curl and openssl. HEADWAY names the program, else it is built.
set -euo pipefail
cd "$(dirname "$0")/../.."

# The latest that Go's module proxy has.
readonly VERSION=v2.2.1+incompatible
folder=$(mktemp -d)
processes=()
trap 'kill "${processes[@]}" 2>/dev/null || true; rm -rf "$folder"' EXIT

if [ -z "${H2SPEC:-}" ]; then
    GOBIN="$folder" go install "github.com/summerwind/h2spec/cmd/h2spec@$VERSION"
    H2SPEC="$folder/h2spec"
fi
if [ -z "${HEADWAY:-}" ]; then
    cargo build --quiet --locked
    HEADWAY=target/debug/headway
fi

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -keyout "$folder/key.pem" -out "$folder/cert.pem" 2>/dev/null
# A free port each; nobody else is expected to take it in between.
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
nim=$(port) plain=$(port) tls=$(port) admin=$(port)
cat >"$folder/headway.yaml" <<YAML
listeners:
  - { address: "127.0.0.1:$plain", h2c: true }
  - { address: "127.0.0.1:$tls", tls: { certificate: "$folder/cert.pem", key: "$folder/key.pem" } }
admin: { address: "127.0.0.1:$admin" }
backends:
  - { name: nim, url: "http://127.0.0.1:$nim", models: ["*"] }
routes:
  - { name: all, backends: [nim] }
YAML
"$HEADWAY" nim --profile h100 --listen "127.0.0.1:$nim" >"$folder/nim.log" 2>&1 &
processes+=($!)
"$HEADWAY" serve --config "$folder/headway.yaml" >"$folder/headway.log" 2>&1 &
processes+=($!)
for _ in $(seq 100); do
    curl -sf "http://127.0.0.1:$admin/readyz" >/dev/null && break
    sleep 0.1
done

# The one known difference: a plain listener speaks both protocols, so what is no preface is answered as HTTP/1.1 (400,
# and closed); h2spec wants no answer.
known='× 2: Sends invalid connection preface'
failed=0
for listener in "-p $plain" "-p $tls --tls --insecure"; do
    echo "== h2spec $listener"
    # shellcheck disable=SC2086
    "$H2SPEC" -h 127.0.0.1 $listener --path /v1/chat/completions --timeout 5 "$@" >"$folder/report" || true
    # The failures and the count; the whole report is long.
    sed -n "/^Failures:/,/^Finished/p" "$folder/report"
    grep " tests, " "$folder/report" | tail -1
    grep -q ' tests, ' "$folder/report" || { cat "$folder/report" "$folder/headway.log"; failed=1; }
    if sed '/^Failures:/,$d' "$folder/report" | grep '×' | grep -v "$known"; then failed=1; fi
    case $listener in *--tls*) if grep -q "$known" "$folder/report"; then failed=1; fi ;; esac
done
exit "$failed"
