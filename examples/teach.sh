#!/bin/sh
# Teaches a fresh device the classes of a folder of photographs, one folder per class, and shows the
# whole life of a head: samples in, training, predictions, where it looked, a second version, the way
# back, and the same answers after a restart.
#
#     examples/teach.sh FOLDER PHOTOGRAPH [OVERLAY.png]
#
# graftd and graftctl are looked for in $BIN (default target/release); a backbone other than the
# built-in one is taken from the ONNX file $BACKBONE, whose preset is $PRESET (default imagenet).
set -eu

folder=$1
photograph=$2
overlay=${3:-overlay.png}
bin=${BIN:-target/release}
state=$(mktemp -d)
export GRAFTCTL_TARGET="${GRAFTCTL_TARGET:-127.0.0.1:7412}"
daemon=

step() {
    printf '\n== %s\n' "$*"
    "$@"
}

start() {
    "$bin/graftd" serve --listen "$GRAFTCTL_TARGET" --state-dir "$state" 2>>"$state/log" &
    daemon=$!
    until "$bin/graftctl" device >/dev/null 2>&1; do
        kill -0 "$daemon" || { cat "$state/log" >&2; exit 1; }
        sleep 0.2
    done
}

stop() {
    kill "$daemon"
    wait "$daemon"
    daemon=
}

finish() {
    [ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
    rm -rf "$state"
}
trap finish EXIT

# The answer without its timings, which differ from call to call.
answer() {
    "$bin/graftctl" predict "$photograph" --head mine --json | sed 's/"timings_ms":{[^}]*}//'
}

if [ -n "${BACKBONE:-}" ]; then
    step "$bin/graftd" models add "$BACKBONE" --id backbone --preset "${PRESET:-imagenet}" \
        --state-dir "$state"
fi
start
step "$bin/graftctl" samples push "$folder" --dataset mine
step "$bin/graftctl" --timeout 600 train --dataset mine --head mine --promote always
first=$(answer)
step "$bin/graftctl" predict "$photograph" --head mine
step "$bin/graftctl" explain "$photograph" --head mine --overlay "$overlay"

step "$bin/graftctl" --timeout 600 train --dataset mine --head mine --kind prototype --promote always
second=$(answer)
step "$bin/graftctl" heads rollback mine
third=$(answer)
step "$bin/graftctl" heads list

stop
start
fourth=$(answer)

printf '\n== answers of version 1, version 2, after the rollback, after a restart\n'
printf '%s\n' "$first" "$second" "$third" "$fourth"
if [ "$first" = "$second" ] || [ "$first" != "$third" ] || [ "$first" != "$fourth" ]; then
    echo "the answers are not what they have to be" >&2
    exit 1
fi
