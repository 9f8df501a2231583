#!/usr/bin/env python3
"""Run heads of every kind, exported with their backbone as ONNX, in onnxruntime, and hold the
probabilities against those of the heads themselves.

    python tests/reference/head_export.py

runs `cargo test --test head_export`, which writes the files to a temporary folder: a head with random
parameters of every kind, an input, and what graftd answers. Needs the networks of $GRAFTD_ASSETS.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
LARGEST = 1e-4


def main():
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"GRAFTD_EXPORT_TO": folder}
        command = ["cargo", "test", "--quiet", "--test", "head_export"]
        subprocess.run(command, cwd=REPOSITORY, env=environment, check=True)
        files = sorted(pathlib.Path(folder).glob("*.onnx"))
        differences = [difference(file) for file in files]
    if not differences:
        raise SystemExit("nothing was exported: set GRAFTD_ASSETS")
    print(f"{len(files)} exported heads, largest difference {max(differences):.1e}")
    return max(differences) <= LARGEST


def difference(file):
    session = onnxruntime.InferenceSession(file)
    expected = json.loads(file.with_suffix(".json").read_text())
    (node,) = session.get_inputs()
    shape = [size if isinstance(size, int) else 1 for size in node.shape]
    tensor = np.array(expected["input"], np.float32).reshape(shape)
    (found,) = session.run(["probabilities"], {node.name: tensor})
    largest = np.abs(found.ravel() - expected["probabilities"]).max()
    print(f"  {file.stem:40} {largest:.1e}")
    return largest


if __name__ == "__main__":
    sys.exit(not main())
