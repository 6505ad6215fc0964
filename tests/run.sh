#!/usr/bin/env bash
# Runs the tests, on a fresh machine too: it needs Rust, and installs what else is missing where it may.
# Arguments go on to `cargo test`:   tests/run.sh --test it tls -- --nocapture
# Without any, real Telegraf agents come last (tests/telegraf/run.sh), where there is Go to build them with;
# REQUIRE_TELEGRAF=1 makes it an error if there is not.
set -euo pipefail
cd "$(dirname "$0")/.."

# Where Debian has HAProxy and nginx, which need not be in the PATH.
PATH=$PATH:/usr/sbin
# What the build and the tests run, and the Debian packages that have it.
needs=(cc:gcc curl:curl jq:jq node:nodejs openssl:openssl haproxy:haproxy nginx:nginx-light script:bsdutils redis-server:redis-server redis-cli:redis-tools chromium:chromium chromedriver:chromium-driver promtool:prometheus)
missing=() packages=()
for need in "${needs[@]}"; do
    command -v "${need%%:*}" >/dev/null || { missing+=("${need%%:*}"); packages+=("${need##*:}"); }
done
# A compiler without the C library's headers is of no use.
if [[ " ${packages[*]} " == *" gcc "* ]]; then packages+=(libc6-dev); fi

if ! command -v cargo >/dev/null; then
    echo "tests/run.sh: cargo is missing: install Rust, $(grep -m1 rust-version Cargo.toml | tr -dc '0-9.') or later" >&2
    exit 1
fi
if ((${#missing[@]})); then
    as_root=()
    ((EUID == 0)) || as_root=(sudo -n)
    if command -v apt-get >/dev/null && "${as_root[@]}" true 2>/dev/null; then
        "${as_root[@]}" apt-get update -q
        # Debian starts the services of what it installs (Redis, HAProxy, nginx, Prometheus), unless this says no.
        policy=/usr/sbin/policy-rc.d
        if [[ ! -e $policy ]]; then
            trap '"${as_root[@]}" rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" install -m 755 /dev/stdin "$policy"
        fi
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${packages[@]}"
        # Nor does it begin with the next start of the machine. Where there is no systemd, nothing does.
        if [[ " ${packages[*]} " == *" prometheus "* && -d /run/systemd/system ]]; then
            "${as_root[@]}" systemctl disable --quiet prometheus
        fi
    else
        echo "tests/run.sh: missing: ${missing[*]}. Install them (Debian: apt-get install ${packages[*]})" >&2
        exit 1
    fi
fi

# axe-core tells whether everybody can use the console's pages. Without it only that is left out.
axe=4.14.1
if [[ ! -e target/axe/package/axe.min.js ]] && command -v npm >/dev/null; then
    mkdir -p target/axe
    (cd target/axe && npm pack --silent "axe-core@$axe" >/dev/null && tar xzf "axe-core-$axe.tgz") ||
        echo "tests/run.sh: axe-core cannot be had: pages are not judged by it" >&2
fi

cargo test --locked "$@"
(($# == 0)) || exit 0

code=0
tests/telegraf/run.sh || code=$?
if ((code == 77)) && [[ ${REQUIRE_TELEGRAF:-} != 1 ]]; then
    echo "tests/run.sh: LEFT OUT: the scenarios with real Telegraf agents. All other tests passed."
    exit 0
fi
exit "$code"
