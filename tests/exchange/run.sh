#!/usr/bin/env bash
# Random exchanges through the real program, every reply and every forwarded request judged: tests/exchange/run.sh [MINUTES [SEED]]
# Ends by itself; 0: nothing was found. TOLLGATE=PROGRAM tries another build.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec cargo test --locked --quiet --test exchange -- "$@"
