#!/bin/sh
# Whether --help, the man page and README say the same, and the version is one.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
cd "$root"
say "documents"
man_page=$(MANWIDTH=200 man -l docs/uid-nri-plugin.8 2>/dev/null | col -b)
help=$("$plugin" --help)

warnings=$(groff -man -Tutf8 -ww -z docs/uid-nri-plugin.8 2>&1)
[ -z "$warnings" ] || die "the man page: $warnings"

# Every option of --help is in the man page, and the other way round.
of_help=$(printf '%s\n' "$help" | grep -oE -- '--[a-z][a-z-]+' | sort -u)
of_man=$(printf '%s\n' "$man_page" | grep -oE -- '--[a-z][a-z-]+' | sort -u)
[ "$of_help" = "$of_man" ] || die "options differ: --help has $of_help, the man page has $of_man"
for option in $of_help; do
	grep -q -- "\"${option#--}\"" src/args.rs || die "$option is documented, but src/args.rs does not know it"
done

# Every configuration key that the source knows is in README and the man page.
keys=$(sed -n '/fn set(&mut self/,/^    }/s/^ *"\([a-z-]*\)" =>.*/\1/p' src/pod/policy.rs)
[ "$(echo "$keys" | wc -l)" -ge 7 ] || die "only these configuration keys were found in the source: $keys"
for key in $keys; do
	grep -q "^| .*\`$key\`" README.md || die "configuration key $key is not in README's table"
	printf '%s\n' "$man_page" | grep -q "^ *.*$key" || die "configuration key $key is not in the man page"
done

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
[ "$("$plugin" --version)" = "uid-nri-plugin $version" ] || die "--version is not $version"
grep -q "^\.TH .*uid-nri-plugin $version\"" docs/uid-nri-plugin.8 || die "the man page is not of version $version"

# No line of --help is over 80 columns, and paths that are named exist.
if printf '%s\n' "$help" | grep -E '.{81}'; then die "--help is wider than 80 columns"; fi
for path in docs/design.md docs/uid-nri-plugin.8 docs/uid-nri-plugin.service tests/demo.sh tests/run.sh tests/bench.sh; do
	grep -q "$path" README.md || die "README does not name $path"
	[ -f "$path" ] || die "README names $path, which is not there"
done

# Wrong options: one line, exit 2.
status=0
error=$("$plugin" --no-such-option 2>&1) || status=$?
[ "$status $(printf '%s\n' "$error" | wc -l)" = '2 1' ] || die "a wrong option: status $status, $error"
