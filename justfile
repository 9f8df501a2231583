# Work on graftd. `just` alone lists what there is; every recipe is also a plain command.

python := env("GRAFTD_PYTHON", ".venv/bin/python")

# List the recipes.
default:
    @just --list --unsorted

# Run every test. Networks and photographs are looked for in $GRAFTD_ASSETS or ../shared/assets.
test:
    cargo test

# Formatting and lints, as CI sees them.
lint:
    cargo fmt --all --check
    cargo clippy --all-targets -- -D warnings
    npx --yes @bufbuild/buf@1 lint proto

# All of CI: lints, documentation, licences, tests.
ci:
    .ci/run

# The daily build; graftctl without the daemon's libraries.
release:
    cargo build --release --bin graftd
    cargo build --release --no-default-features --bin graftctl

# The build for packages: smallest and slow to make; graftctl without the daemon's libraries.
dist:
    cargo build --locked --profile dist --bin graftd
    cargo build --locked --profile dist --no-default-features --bin graftctl
    ls -l target/dist/graftd target/dist/graftctl

# Build for aarch64 and predict once under qemu-user.
arm64 profile="release":
    deploy/arm64.sh {{ profile }}

# A virtual environment for the reference scripts and the comparisons.
venv:
    python3 -m venv .venv
    .venv/bin/pip install --quiet --requirement tests/reference/requirements.txt

# The same with PyTorch and pytorch-grad-cam, for `just gradients` and `just explanation`.
venv-torch: venv
    .venv/bin/pip install --quiet --requirement tests/reference/requirements-torch.txt

# Twelve architectures in onnxruntime and in graftd: loads, same top-5, difference, waists.
architectures *flags: release
    {{ python }} tests/reference/architectures.py --graftd target/release/graftd {{ flags }}

# Top-1 and top-5 of every ImageNet network in the assets, beside onnxruntime.
accuracy *flags: release
    {{ python }} tests/reference/accuracy.py --graftd target/release/graftd {{ flags }}

# Latency beside onnxruntime and OpenVINO on the same files in the same run.
compare *flags: release
    {{ python }} benches/compare/latency.py --graftd target/release/graftd {{ flags }}

# The daemon over loopback gRPC beside the same work in one process; start, memory, processor time.
loopback *flags:
    cargo bench --bench loopback -- {{ flags }}

# What is learnt beside scikit-learn: accuracy, unknowns, exported heads, speed.
learn *flags: release
    cargo build --release --example softmax_regression
    {{ python }} tests/reference/train_compare.py --graftd target/release/graftd {{ flags }}

# Heads of every kind, exported with their backbone, in onnxruntime beside graftd's own answers.
heads:
    {{ python }} tests/reference/head_export.py

# Predictions beside a training, and how soon a stored sample is live in a head that follows.
learning:
    cargo test --release --test learning_performance -- --ignored --nocapture

# Explaining beside predicting, and beside pytorch-grad-cam, one thread each.
explanation *flags: release
    {{ python }} benches/compare/explanation.py --graftd target/release/graftd {{ flags }}

# Maps beside pytorch-grad-cam's and labelled boxes. Score-CAM of the large networks takes ten minutes.
parity:
    cargo test --test explanations -- --include-ignored --nocapture

# Gradients by feature maps, input and weights beside PyTorch's: real networks, twelve architectures.
gradients folder="target/architectures":
    {{ python }} tests/reference/architectures.py --out {{ folder }}
    {{ python }} tests/reference/gradients.py --architectures {{ folder }}
    GRAFTD_ARCHITECTURES="$PWD/{{ folder }}" cargo test --test gradients autograd -- --nocapture

# Samples a second into the store, bytes written for each byte of sample, time to open 100,000.
store:
    cargo test --release --test store_performance -- --ignored --nocapture

# A thousand times kill -9 in the middle of a stream.
kill rounds="1000":
    GRAFTD_KILL_ROUNDS={{ rounds }} cargo test --test store_crash -- --nocapture

# Two hundred trainings with poisoned labels over gRPC: what went live, and how good it stayed.
poison jobs="200":
    GRAFTD_POISON_JOBS={{ jobs }} cargo test --test learning poison -- --nocapture
