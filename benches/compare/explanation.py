#!/usr/bin/env python3
"""Grad-CAM of MobileNetV2 in graftd beside its own prediction and beside pytorch-grad-cam.

One thread each, in turns, round after round, so that whatever else the machine does hits all of
them; the table shows medians over the rounds. pytorch-grad-cam runs torchvision's module, and the
ONNX file of the assets with its batch normalisation folded; the faster of the two is compared with.

    .venv/bin/pip install -r tests/reference/requirements-torch.txt
    .venv/bin/python benches/compare/explanation.py --graftd target/release/graftd
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import warnings

import torch
import torchvision
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests/reference"))

from timing import median_ms  # noqa: E402
from torch_network import OnnxNetwork  # noqa: E402

ID, LAYER, SIDE = "mobilenet-v2", "clip_97", 224


def forward(network, image):
    def run():
        with torch.no_grad():
            network(image)
    return run


def explain(network, layer, image):
    """The class is given, so that nobody looks for it."""
    cam = GradCAM(model=network, target_layers=[layer])
    target = [ClassifierOutputTarget(386)]
    return lambda: cam(input_tensor=image, targets=target)


def in_graftd(graftd, state, seconds):
    """`graftd bench` takes turns within its own process, on one thread."""
    command = [graftd, "bench", "--backbone", ID, "--threads", "1", "--explain", "--json"]
    command += ["--seconds", str(seconds), "--state-dir", state]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["explain"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graftd", default="target/release/graftd")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each in each round")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    assets = pathlib.Path(os.environ.get("GRAFTD_ASSETS", REPOSITORY / "../shared/assets"))
    path = assets / "models/mobilenet-v2.onnx"
    image = torch.randn(1, 3, SIDE, SIDE)
    native = torchvision.models.mobilenet_v2(weights=None).eval()
    folded = OnnxNetwork(path).eval()
    theirs = {
        "torchvision, forward run": forward(native, image),
        "torchvision, pytorch-grad-cam": explain(native, native.features[-1], image),
        "ONNX file in PyTorch, forward run": forward(folded, image),
        "ONNX file in PyTorch, pytorch-grad-cam": explain(folded, folded.layer(LAYER), image),
    }
    ours, times = [], {name: [] for name in theirs}
    with tempfile.TemporaryDirectory() as state:
        command = [arguments.graftd, "models", "add", str(path), "--id", ID]
        command += ["--preset", "imagenet", "--state-dir", state]
        subprocess.run(command, check=True, capture_output=True, text=True)
        for _ in range(arguments.rounds):
            ours.append(in_graftd(arguments.graftd, state, arguments.seconds))
            for name, run in theirs.items():
                times[name].append(median_ms(run, arguments.seconds))

    middle = lambda get: statistics.median(get(round_) for round_ in ours)
    times = {name: statistics.median(rounds) for name, rounds in times.items()}
    version = torch.__version__.split("+")[0]
    print(f"MobileNetV2, milliseconds, one thread, f32; median of {arguments.rounds} rounds; "
          f"PyTorch {version}.\n")
    print("| | ms | / graftd predict |\n|---|---:|---:|")
    predict = middle(lambda r: r["predict_ms"])
    print(f"| graftd predict | {predict:.1f} | |")
    for part, words in (("last_layer", "last layer"), ("half_way", "half-way")):
        layer, ms = ours[0][part]["layer"], middle(lambda r: r[part]["median_ms"])
        ratio = middle(lambda r: r[part]["over_predict"])
        print(f"| graftd explain, {words} ({layer}) | {ms:.1f} | {ratio:.2f} |")
    for name, ms in times.items():
        print(f"| {name} | {ms:.1f} | {ms / predict:.2f} |")
    fastest = min(ms for name, ms in times.items() if name.endswith("grad-cam"))
    explained = middle(lambda r: r["last_layer"]["median_ms"])
    print(f"\npytorch-grad-cam / graftd explain: {fastest / explained:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
