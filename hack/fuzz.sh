#!/bin/sh
# Runs every fuzzer of the module, one after the other, each for $1 (a Go duration).
set -eu
time=${1:-10s}
cd "$(dirname "$0")/.."
found=0
for package in $(go list ./...); do
	for fuzzer in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
		found=$((found + 1))
		echo "fuzz: $package $fuzzer for $time"
		go test -run '^$' -fuzz "^$fuzzer\$" -fuzztime "$time" "$package"
	done
done
if [ "$found" -eq 0 ]; then
	echo "fuzz: no fuzzer found" >&2
	exit 1
fi
echo "fuzz: $found fuzzers, no failure"
