#!/usr/bin/env bash
# Real Telegraf agents against the real program and a stand-in Controller: tests/telegraf/run.sh [NAME...]
# Needs Go, which builds Telegraf (once, in about a minute, into the target folder), and redis-server. 0: all passed.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=1.39.0
folder=$(realpath -m "${CARGO_TARGET_DIR:-target}")/telegraf
telegraf=$folder/telegraf-$version

# Where Go's own installer puts it, which need not be in the PATH.
command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
if [[ ! -x $telegraf ]]; then
    if ! command -v go >/dev/null; then
        echo "tests/telegraf/run.sh: go is missing: install Go, 1.26 or later" >&2
        exit 1
    fi
    echo "building Telegraf $version"
    mkdir -p "$folder"
    building=$(mktemp -d "$folder/building.XXXXXX")
    trap 'rm -rf "$building"' EXIT
    # Only the plugins that the agents here use.
    CGO_ENABLED=0 GOBIN=$building go install -tags "custom,inputs.mem,outputs.heartbeat,outputs.discard" \
        "github.com/influxdata/telegraf/cmd/telegraf@v$version" 2> "$building/log" || { cat "$building/log" >&2; exit 1; }
    mv "$building/telegraf" "$telegraf"
    rm -rf "$building"
    trap - EXIT
fi
exec cargo test --locked --quiet --test telegraf -- --telegraf "$telegraf" "$@"
