#!/bin/sh
# Runs staticcheck over the module, at one pinned version, without adding it to go.mod.
set -eu
cd "$(dirname "$0")/.."
exec go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 -checks 'all,-ST1000' ./...
