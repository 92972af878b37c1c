#!/bin/sh
# Whether --help, the man page and README say the same, and the version is one.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
cd "$root"
say "documents"
man_page=$(MANWIDTH=200 man -l docs/uid-nri-plugin.8 2>/dev/null | col -b)
tools='node supervise plan check show explain inspect'

warnings=$(groff -man -t -Tutf8 -ww -z docs/uid-nri-plugin.8 2>&1)
[ -z "$warnings" ] || die "the man page: $warnings"

# help [TOOL]: what it prints, no line of it over 80 columns.
help() {
	"$plugin" "$@" --help >"$work" || die "$* --help fails"
	if grep -E '.{81}' "$work"; then die "$* --help is wider than 80 columns"; fi
	grep -qE '^(Examples?:|  ENTRYPOINT )' "$work" || die "$* --help has no example"
	cat "$work"
}
work=$(mktemp)
trap 'rm -f "$work"' EXIT
help=$(help)
for tool in $tools; do
	printf '%s\n' "$help" | grep -q "^  $tool " || die "--help does not tell of $tool"
	printf '%s\n' "$man_page" | grep -q "^ *uid-nri-plugin $tool" || die "the man page does not tell of $tool"
	help=$help$(printf '\n' && help "$tool")
	# Nothing but options is an option. check has 2 for a problem that it finds.
	wrong=2
	[ "$tool" != check ] || wrong=3
	status=0
	error=$("$plugin" "$tool" --no-such-option 2>&1) || status=$?
	[ "$status $(printf '%s\n' "$error" | wc -l)" = "$wrong 1" ] || die "a wrong option of $tool: status $status, $error"
done

# Every option of --help is in the man page, and the other way round.
of_help=$(printf '%s\n' "$help" | grep -oE -- '(^|[^-a-z])--[a-z][a-z0-9-]+' | grep -oE -- '--.*' | sort -u)
of_man=$(printf '%s\n' "$man_page" | grep -oE -- '(^|[^-a-z])--[a-z][a-z0-9-]+' | grep -oE -- '--.*' | sort -u)
[ "$of_help" = "$of_man" ] || {
	printf '%s\n' "$of_help" >"$work"
	die "options differ: $(printf '%s\n' "$of_man" | diff "$work" - | grep '^[<>]' | tr '\n' ' ')"
}

# Every configuration key that the source knows is in README and the man page.
keys=$(sed -n '/fn set(&mut self/,/^    }/s/^ *"\([a-z-]*\)" =>.*/\1/p' src/pod/config.rs)
[ "$(echo "$keys" | wc -l)" -ge 7 ] || die "only these configuration keys were found in the source: $keys"
for key in $keys image; do
	grep -q "^| .*\`$key\`" README.md || die "configuration key $key is not in README's table"
	printf '%s\n' "$man_page" | grep -q "^ *.*$key" || die "configuration key $key is not in the man page"
done

# The ids that plan pins have their reasons.
usual=$(sed -n 's/^const USUAL: .* = \[\(.*\)\];/\1/p' src/cmd/plan.rs | tr -d ,)
[ "$(echo "$usual" | wc -w)" -ge 10 ] || die "only these ids were found in the source: $usual"
for id in $usual; do
	printf '%s\n' "$man_page" | grep -qE "^[[:space:]]*([0-9]+, )?$id(, [0-9]+)?[[:space:]]+[A-Za-z]" || die "the man page gives no reason for id $id"
done

# The floors of the design: what is on one of them knows only what is on those below it.
floors=$(sed -n '/^## How it is built/,/^`/s/^    \([a-z].*\)/\1/p' docs/design.md | sed 's/  .*//; s/ //g')
[ "$(echo "$floors" | wc -l)" -ge 5 ] || die "docs/design.md has only these floors: $floors"
for module in $(ls src | sed 's/\.rs$//'); do
	[ "$module" = lib ] || echo "$floors" | tr '|' '\n' | grep -qx "$module" || die "docs/design.md has no floor for $module"
	below=$(echo "$floors" | sed "0,/\\(^\\||\\)$module\\(|\\|\$\\)/d" | tr '|\n' '  ')
	for used in $(grep -rhoE '(use |[^a-z_:])crate::[a-z_]+' "src/$module" "src/$module.rs" 2>/dev/null | sed 's/.*crate:://' | sort -u); do
		case " $module $below" in
		*" $used "*) ;;
		*) die "$module knows $used, which is not below it in docs/design.md" ;;
		esac
	done
done

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
[ "$("$plugin" --version)" = "uid-nri-plugin $version" ] || die "--version is not $version"
grep -q "^\.TH .*uid-nri-plugin $version\"" docs/uid-nri-plugin.8 || die "the man page is not of version $version"

# Paths that are named exist.
for path in docs/design.md docs/uid-nri-plugin.8 docs/uid-nri-plugin.service tests/demo.sh tests/run.sh tests/bench.sh; do
	grep -q "$path" README.md || die "README does not name $path"
	[ -f "$path" ] || die "README names $path, which is not there"
done

# Wrong options: one line, exit 2.
status=0
error=$("$plugin" --no-such-option 2>&1) || status=$?
[ "$status $(printf '%s\n' "$error" | wc -l)" = '2 1' ] || die "a wrong option: status $status, $error"

# Who has seen enough closes the pipe: no failure.
status=$({ { status=0; sleep 0.2; "$plugin" show --wrap 2>&3 || status=$?; echo "$status" >&3; } | :; } 3>&1)
[ "$status" = 0 ] || die "show into a closed pipe: $status"

# One line, whatever is in a name; and at once, with no runtime there.
name=$(printf '/no\033[2J\nfile')
for arguments in '--config' 'show --map' 'inspect --state' 'supervise --'; do
	# shellcheck disable=SC2046,SC2086 # words
	error=$(timeout "$((5 * ${TIME_FACTOR:-1}))" "$plugin" $arguments "$name" $([ "$arguments" != 'inspect --state' ] || echo id) 2>&1) && die "$arguments: no failure"
	case $error in
	*"$(printf '\033')"*) die "$arguments: $error" ;;
	*'/no\u{1b}[2J\nfile'*'No such file'*) ;;
	*) die "$arguments: $error" ;;
	esac
done
