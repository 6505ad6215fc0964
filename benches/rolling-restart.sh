#!/usr/bin/env bash
# Replaces a sidecar by itself again and again (SIGUSR2) under a steady load, and prints how many requests failed.
#
#   benches/rolling-restart.sh [TAKE-OVERS] [REQUESTS-PER-SECOND] [SECONDS-BETWEEN]     10 2000 3
#
# Half of the load comes on new connections, half on connections that are kept. Needs python3, and target/release/tollgate
# (TOLLGATE names another). Exit code 1 if anything failed.
set -euo pipefail
cd "$(dirname "$0")/.."
ulimit -n "$(ulimit -Hn)"
exec python3 benches/rolling_restart.py "${TOLLGATE:-target/release/tollgate}" "${1:-10}" "${2:-2000}" "${3:-3}"
