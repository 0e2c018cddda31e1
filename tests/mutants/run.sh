#!/bin/sh
# Mutation testing of `route` and `measure`: seeds faults, one at a time, and tells which the tests catch.
#
#   tests/mutants/run.sh [FOLDER] [ARGUMENT OF CARGO-MUTANTS…]
#
# Needs cargo-mutants. Both modules are pure, so they are built with what they import and nothing else: seconds a mutant
# instead of minutes. `--shard 0/8` takes an eighth; not among the regular checks.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
work=${1:-$(mktemp -d)}
[ $# = 0 ] || shift
mkdir -p "$work/src" "$work/tests"

for module in clock random units engine wire measure route; do
    rm -rf "${work:?}/src/$module" "$work/src/$module.rs"
    cp -r "$root/src/$module"* "$work/src/"
done
for test in "$root/tests/reading.rs" "$root/tests/fixtures"; do
    rm -rf "${work:?}/tests/$(basename "$test")"
    cp -r "$test" "$work/tests/"
done
printf '//! The pure modules alone.\n%s\n' \
    'pub mod clock; pub mod engine; pub mod measure; pub mod random; pub mod route; pub mod units; pub mod wire;' >"$work/src/lib.rs"
cp "$root/Cargo.lock" "$work/"
# The same versions, of what these modules use.
{
    printf '[package]\nname = "headway"\nversion = "0.1.0"\nedition = "2024"\n\n[workspace]\n\n[dependencies]\n'
    grep -E '^(bytes|hdrhistogram|memchr|rustix|serde|serde_json|thiserror) = ' "$root/Cargo.toml"
    printf '\n[dev-dependencies]\n'
    grep -E '^proptest = ' "$root/Cargo.toml"
    printf '\n[profile.dev]\ndebug = false\n'
} >"$work/Cargo.toml"

cd "$work"
exec cargo mutants --file 'src/route/**' --file 'src/measure/**' --exclude '**/fuzz.rs' --output "$work" --timeout 60 --baseline run "$@"
