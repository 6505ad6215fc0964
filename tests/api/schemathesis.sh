#!/usr/bin/env bash
# Calls the admin API as its description (docs/openapi.json) allows it, and as it does not, and judges the replies: no server
# error, no status, media type or body that is not described, nothing accepted that should not be, nothing refused that should.
# With the Owner's token and with a Manager's. Needs Python 3.10 or later; takes some ten minutes. A first argument is the most
# examples for each call (30), a second one the seed.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=4.32.5
examples=${1:-30} seed=${2:-$RANDOM}
venv=$PWD/target/venv config=$PWD/tests/api/schemathesis.toml
if ! "$venv/bin/schemathesis" --version 2>/dev/null | grep -qF "$version"; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version"
fi
[[ -n ${SKIP_BUILD:-} ]] || cargo build --locked --quiet

work=$(mktemp -d)
dev='' code=0
finish() {
    if [[ -n $dev ]]; then kill "$dev" 2>/dev/null && wait "$dev"; fi
    rm -rf "$work"
}
trap finish EXIT
any=127.0.0.1:0
target/debug/tollgate dev --listen $any --admin-listen $any --api-listen $any --heartbeat-listen $any >"$work/said" 2>"$work/log" &
dev=$!
# The last line that it prints.
until grep -q '^Stop it' "$work/said"; do
    kill -0 "$dev" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.1
done
api=$(grep -om1 'http://[0-9.:]*/api/v1' "$work/said")
owner=$(sed -n 's/^ *OWNER=//p' "$work/said")

# As `POST PATH BODY`, by the Owner.
post() { curl -fsS -H "Authorization: Bearer $owner" --json "$2" "$api/$1"; }
post users '{"name":"max","role":"manager"}' >"$work/user"
may='"tokens:read","tokens:write","tokens:delete","users:read","configs:read","heartbeat:write"'
post 'tokens?wait=5s' "{\"user\":\"max\",\"description\":\"manages\",\"permissions\":[$may]}" >"$work/token"
manager=$(sed -n 's/.*"token":"\(tc-apiv1_[0-9a-f]*\)".*/\1/p' "$work/token")

# Each may have one token of the caller's taken away (tests/api/schemathesis.toml): not the calling one, or the rest of the calls
# would say nothing.
judge() {
    post "tokens?wait=5s" "{\"user\":\"$3\",\"description\":\"to be taken away\",\"permissions\":[\"configs:read\"]}" >"$work/token"
    TOLLGATE_TOKEN_ID=$(sed -n 's/^{"id":"\([0-9a-z]*\)".*/\1/p' "$work/token")
    export TOLLGATE_TOKEN_ID
    echo "tests/api/schemathesis.sh: with the token of the $1, seed $seed"
    (cd "$work" && "$venv/bin/schemathesis" --config-file "$config" run "$api/openapi.json" --url "${api%/api/v1}" \
        --header "Authorization: Bearer $2" --phases examples,coverage,fuzzing --max-examples "$examples" \
        --seed "$seed" --generation-database none --no-color) || code=1
    if ! curl -fsS -o /dev/null -H "Authorization: Bearer $2" "$api/self"; then
        echo "tests/api/schemathesis.sh: the token of the $1 has stopped working, so the judgement is worth nothing" >&2
        code=1
    fi
}
judge Manager "$manager" max
judge Owner "$owner" owner
exit $code
