#!/usr/bin/env bash
# Compares Tollgate with HAProxy on this machine. `run.sh --help` lists the options; ../README.md says how to read it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
    echo "run.sh: needs python3, 3.9 or newer (Debian, Ubuntu: apt-get install python3)" >&2
    exit 2
fi
export OPENSSL_CONF="$here/client.cnf"
exec python3 -B "$here/compare.py" "$@"
