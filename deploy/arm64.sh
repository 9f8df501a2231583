#!/bin/sh
# Builds graftd for aarch64 and predicts one picture with it under qemu-user; the answer must be the
# native program's. `just arm64` calls this; the profile is the argument (default: release).
#
# Debian and Ubuntu: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static
# and either `rustup target add aarch64-unknown-linux-gnu` or, with the distribution's Rust,
# `dpkg --add-architecture arm64; apt-get install rustc-web libstd-rust-web-dev:arm64` and
# RUSTC=/usr/bin/rustc.
set -eu
cd "$(dirname "$0")/.."

profile=${1:-release}
triple=aarch64-unknown-linux-gnu
target=${CARGO_TARGET_DIR:-target}
assets=${GRAFTD_ASSETS:-../shared/assets}
folder=$([ "$profile" = dev ] && echo debug || echo "$profile")

for tool in aarch64-linux-gnu-gcc qemu-aarch64-static; do
    command -v "$tool" >/dev/null || {
        echo "$tool is missing: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static" >&2
        exit 1
    }
done
if [ -z "${RUSTC:-}" ] && command -v rustup >/dev/null; then
    rustup target add "$triple"
fi

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
cargo build --locked --profile "$profile" --target "$triple" --bin graftd
cargo build --locked --profile "$profile" --target "$triple" --no-default-features --bin graftctl
# The native program keeps the toolchain that it has, whatever RUSTC builds the foreign one.
env -u RUSTC cargo build --locked --profile "$profile" --bin graftd
ls -l "$target/$triple/$folder/graftd" "$target/$triple/$folder/graftctl"

state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
native="$target/$folder/graftd"
# With the cross libraries alone: the loader of one libc and the library of another, as where the
# distribution's arm64 packages are installed too, hang in the first thread that is started.
root=/usr/aarch64-linux-gnu
foreign="qemu-aarch64-static -L $root -E LD_LIBRARY_PATH=$root/lib $target/$triple/$folder/graftd"

# Adding a model tries it in a child process, which qemu-user cannot start without binfmt_misc:
# the native program adds it, the foreign one predicts from the same state folder.
"$native" models add "$assets/models/mobilenet-v1-0.25-128.onnx" --id small --preset tf \
    --state-dir "$state"
picture=$(find "$assets/images/boxes" -name '*.jpg' | sort | head -n 1)
answer() {
    "$@" predict "$picture" --backbone small --top-k 3 --json --state-dir "$state"
}
answer "$native" >"$state/native.json"
# shellcheck disable=SC2086 # the foreign command is several words
answer $foreign >"$state/foreign.json"
cat "$state/foreign.json"

classes() {
    grep -o '"index":[0-9]*' "$1"
}
if [ "$(classes "$state/native.json")" != "$(classes "$state/foreign.json")" ]; then
    echo "aarch64 answers differently; natively it was:" >&2
    cat "$state/native.json" >&2
    exit 1
fi
echo "aarch64 answers as the native program does"
