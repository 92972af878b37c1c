#!/bin/sh
# Builds the C programs of the tests into a folder: build.sh FOLDER. CC is the compiler, gcc if it is not set.
set -eu
to=$(cd "$1" && pwd)
cd "$(dirname "$0")"
cc=${CC:-gcc}
strict='-O1 -Wall -Wextra -Werror -static'
# shellcheck disable=SC2046,SC2086 # words
"$cc" $strict -pthread -o "$to/caller" $(printf '%s\n' ./*.c | grep -v -e i386.c -e older.c)
# shellcheck disable=SC2086
"$cc" $strict -o "$to/older" older.c
case $("$cc" -dumpmachine) in
x86_64*)
	# shellcheck disable=SC2086
	"$cc" $strict -m32 -nostdlib -ffreestanding -fno-stack-protector -fno-pic -o "$to/i386" i386.c
	;;
esac
