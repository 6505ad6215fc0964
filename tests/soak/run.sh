#!/usr/bin/env bash
# A random schedule of commands and faults over four sidecars, every reply judged: tests/soak/run.sh [MINUTES] [--seed N]
# Needs redis-server and redis-cli. Ends by itself; 0: no rule was broken.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo build --locked --quiet --bins
exec cargo test --locked --quiet --test soak -- "$@"
