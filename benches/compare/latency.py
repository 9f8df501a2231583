#!/usr/bin/env python3
"""Latency of graftd beside onnxruntime and OpenVINO: same files, same run, one thread each.

The three take turns, round after round, so that whatever else the machine does hits all of them.
A round gives each a median; the table shows the median over the rounds, and the ratios of those.

    python3 -m venv .venv && .venv/bin/pip install -r tests/reference/requirements.txt
    .venv/bin/python benches/compare/latency.py --graftd target/release/graftd
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import tomllib

import numpy as np
import onnxruntime
import openvino

from timing import median_ms

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def in_onnxruntime(path, tensor):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: tensor})


def in_openvino(path, tensor):
    core = openvino.Core()
    model = core.read_model(str(path))
    model.reshape(list(tensor.shape))
    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    # Without this OpenVINO calculates in bfloat16 where the processor can, and the others do not.
    settings["INFERENCE_PRECISION_HINT"] = "f32"
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer([tensor])


def in_graftd(graftd, state, backbone, seconds):
    """`graftd bench` measures inside its own process: the engine object is the network alone."""
    command = [graftd, "bench", "--backbone", backbone, "--threads", "1", "--json"]
    command += ["--seconds", str(seconds), "--state-dir", state]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["engine"]["median_ms"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graftd", default="target/release/graftd")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="for each in each round")
    parser.add_argument("--only", nargs="*", help="ids of the networks to run")
    arguments = parser.parse_args()
    default = REPOSITORY / "../shared/assets"
    assets = pathlib.Path(os.environ.get("GRAFTD_ASSETS", default))
    models = tomllib.loads((assets / "models.toml").read_text())["model"]
    models = [model for model in models if not model["id"].endswith("int8")]

    versions = (
        f"onnxruntime {onnxruntime.__version__}, OpenVINO {openvino.__version__.split('-')[0]}"
    )
    print(
        f"Milliseconds an image, one thread, f32; median of {arguments.rounds} rounds; {versions}.\n"
    )
    header = [
        "network",
        "graftd",
        "onnxruntime",
        "OpenVINO",
        "graftd / onnxruntime",
        "graftd / OpenVINO",
    ]
    print("| " + " | ".join(header) + " |")
    print("|---|" + "---:|" * (len(header) - 1))
    with tempfile.TemporaryDirectory() as state:
        for model in models:
            id, size = model["id"], model["input_size"]
            if arguments.only and id not in arguments.only:
                continue
            path = assets / model["file"]
            command = [arguments.graftd, "models", "add", str(path), "--id", id]
            command += ["--preset", "imagenet", "--state-dir", state]
            subprocess.run(command, check=True, capture_output=True, text=True)
            tensor = np.random.default_rng(0).normal(size=(1, 3, size, size)).astype(np.float32)
            runs = [in_onnxruntime(path, tensor), in_openvino(path, tensor)]
            rounds = [
                [in_graftd(arguments.graftd, state, id, arguments.seconds)]
                + [median_ms(run, arguments.seconds) for run in runs]
                for _ in range(arguments.rounds)
            ]
            ours, ort, vino = (statistics.median(column) for column in zip(*rounds))
            cells = [id, f"{ours:.1f}", f"{ort:.1f}", f"{vino:.1f}"]
            cells += [f"{ours / ort:.2f}", f"{ours / vino:.2f}"]
            print("| " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
