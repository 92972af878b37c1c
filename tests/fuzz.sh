#!/bin/sh
# Fuzzes what hostile input reaches (src/fuzz.rs), with cargo-fuzz and a nightly compiler, which are installed if missing.
# What it finds is kept in tests/fuzz/artifacts; put it into tests/fuzz/corpus/TARGET once it is mended: unit tests play
# all of these.
#
#     tests/fuzz.sh [SECONDS [TARGET...]]    so long for each target (60), all of them by default
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"

need_rust
rustup toolchain list | grep -q '^nightly' || rustup toolchain install --quiet --profile minimal nightly
cargo fuzz --version >/dev/null 2>&1 || {
	say "building cargo-fuzz (two minutes)"
	cargo install --quiet --locked cargo-fuzz
}
seconds=${1:-60}
[ $# -eq 0 ] || shift
cd "$root/tests/fuzz"
# shellcheck disable=SC2046 # no target has a space
[ $# -gt 0 ] || set -- $(sed -n 's/^name = "\([a-z_]*\)"$/\1/p' Cargo.toml)
for target; do
	say "$target: $seconds s"
	found=$(mktemp -d)
	cargo +nightly fuzz run --fuzz-dir . "$target" "$found" "corpus/$target" -- -max_total_time="$seconds" -timeout=10 \
		-rss_limit_mb=1024 -max_len=65536 -print_final_stats=1 2>&1 | grep -E 'ERROR|panicked|SUMMARY|number_of_executed_units|peak_rss_mb' || true
	rm -rf "$found"
	[ -z "$(ls "artifacts/$target" 2>/dev/null)" ] || die "$target: something was found, in tests/fuzz/artifacts/$target"
done
say "nothing was found"
