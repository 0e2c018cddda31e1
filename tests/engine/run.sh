#!/usr/bin/env bash
# A real engine behind headway: llama.cpp's server, with a small model of random weights in two precisions.
#
#   tests/engine/run.sh [FOLDER [check | measure [PART…]]]
#
# Builds the server into FOLDER (a temporary one by default) the first time, which takes ten minutes of two cores, then runs
# check.py (what holds) or measure.py (figures), by default both. Needs pip, cmake, a C++ compiler and taskset; HEADWAY names
# the program, else a release build is made. Not among the regular checks, for the time it takes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
work=${1:-$(mktemp -d)}
part=${2:-all}
mkdir -p "$work"
work=$(cd "$work" && pwd)
# The package's source has llama.cpp's in it; 0.3.36 has that of November 2026.
readonly PACKAGE=llama-cpp-python==0.3.36
server=$work/build/bin/llama-server

if [ ! -x "$work/venv/bin/python" ]; then
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet gguf tokenizers
fi
if [ ! -x "$server" ]; then
    "$work/venv/bin/pip" download --quiet --no-deps --no-binary llama-cpp-python --dest "$work" "$PACKAGE"
    mkdir -p "$work/source"
    tar -xzf "$work"/llama_cpp_python-*.tar.gz -C "$work/source" --strip-components 3 --wildcards '*/vendor/llama.cpp'
    cmake -S "$work/source" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DLLAMA_OPENSSL=OFF \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_USE_PREBUILT_UI=OFF >"$work/cmake.log" 2>&1
    nice -n 5 cmake --build "$work/build" --target llama-server --parallel 2 >"$work/build.log" 2>&1
fi
if [ ! -f "$work/tiny-llama-random-f32.gguf" ]; then
    "$work/venv/bin/python" "$here/model.py" "$work/source/docs" "$work"
fi
if [ -z "${HEADWAY:-}" ]; then
    (cd "$root" && cargo build --quiet --locked --release)
    HEADWAY=$root/target/release/headway
fi

# Leave nothing beside the sources.
export PYTHONDONTWRITEBYTECODE=1
case $part in
check) exec python3 "$here/check.py" "$work" "$server" "$HEADWAY" ;;
measure) exec python3 "$here/measure.py" "$work" "$server" "$HEADWAY" "${@:3}" ;;
all)
    python3 "$here/check.py" "$work" "$server" "$HEADWAY"
    exec python3 "$here/measure.py" "$work" "$server" "$HEADWAY"
    ;;
*) echo "unknown part: $part" >&2 && exit 2 ;;
esac
