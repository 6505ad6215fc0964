#!/usr/bin/env bash
# Real Telegraf agents against the real program and a stand-in Controller: tests/telegraf/run.sh [NAME...]
# Needs redis-server, and Go 1.26 or later to build Telegraf: once, in about a minute, into the target folder.
# 0: all passed; 77: there is no Telegraf and no Go to build it with.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=1.39.0
folder=$(realpath -m "${CARGO_TARGET_DIR:-target}")/telegraf
telegraf=$folder/telegraf-$version

# Where Go's own archive is unpacked to, which need not be in the PATH.
command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin

if [[ ! -x $telegraf ]]; then
    found=$(go env GOVERSION 2>/dev/null) || found="no Go"
    if [[ $found != go* || $(printf '%s\n' go1.26 "$found" | sort -V | head -n 1) != go1.26 ]]; then
        echo "tests/telegraf/run.sh: Go 1.26 or later is needed to build Telegraf, there is $found" >&2
        exit 77
    fi
    echo "building Telegraf $version"
    mkdir -p "$folder"
    building=$(mktemp -d "$folder/building.XXXXXX")
    trap 'rm -rf "$building"' EXIT
    # Only the plugins that are used here. Go tells what it downloads, which is of interest only when it fails.
    CGO_ENABLED=0 GOBIN=$building go install -tags "custom,inputs.mem,outputs.heartbeat,outputs.discard" \
        "github.com/influxdata/telegraf/cmd/telegraf@v$version" 2>"$building/log" || { cat "$building/log" >&2; exit 1; }
    mv "$building/telegraf" "$telegraf"
fi
cargo test --locked --quiet --test telegraf -- --telegraf "$telegraf" "$@"
