#!/usr/bin/env python3
"""Gradients of a logit by PyTorch autograd in float64, as a small fixture for `cargo test --test explanations`.

For each network: the gradient of the top logit with respect to the last feature map, one half-way
down, the input, and three weights. Of each gradient its norm, its product with a fixed vector, and 24
entries are kept.

    python3 tests/reference/gradients.py --assets ../shared/assets [--architectures DIR]
"""

import argparse
import json
import pathlib
import tomllib

import numpy as np
import torch

from torch_network import OnnxNetwork

HERE = pathlib.Path(__file__).parent


def summary(gradient):
    flat = gradient.detach().double().reshape(-1).numpy()
    pattern = np.cos(0.7 * np.arange(flat.size))
    at = (np.arange(24) * 7919 + 5) % flat.size
    return {"len": flat.size, "norm": float(np.linalg.norm(flat)),
            "product": float(flat @ pattern), "at": at.tolist(),
            "values": [float(f"{v:.8g}") for v in flat[at]]}


def reference_input(assets, model):
    size = model["input_size"]
    pixels = np.load(assets / f"reference/rgb_u8_{size}.npy").astype(np.float32)
    if model["channels"] == "bgr":
        pixels = pixels[..., ::-1]
    numerator, _, divisor = model["scale"].partition("/")
    scale = np.float32(numerator) / np.float32(divisor or 1)
    x = (pixels * scale - np.float32(model["mean"])) / np.float32(model["std"])
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def middle(network, x, last):
    """The output of a Conv, Relu, Clip, Mul, Add or Concat half-way down to `last`."""
    names = []
    for node in network.nodes:
        value = network.values.get(node.output[0])
        if value is not None and value.dim() == 4 and value.shape[2] > 1:
            if node.op_type in ("Relu", "Clip", "Mul", "Add", "Concat", "LeakyRelu"):
                names.append(node.output[0])
        if node.output[0] == last:
            break
    return names[len(names) // 2]


def weights(network):
    """First convolution, one in the middle, and the classifier."""
    used = [n for n in network.nodes if n.op_type in ("Conv", "Gemm", "MatMul")]
    used = [n.input[1] for n in used if any(n.input[1] == t.name for t in network.graph.initializer)]
    return [used[0], used[len(used) // 2], used[-1]]


def record(network, x, last):
    x = x.clone().requires_grad_(True)
    logits = network(x)
    index = int(logits[0].argmax())
    between = middle(network, x, last)
    names = weights(network)
    wanted = [network.values[last], network.values[between], x] + [network.weight(n) for n in names]
    gradients = torch.autograd.grad(logits[0, index], wanted)
    layers = [{"name": n, **summary(g)} for n, g in zip([last, between, network.input], gradients)]
    kernels = []
    for name, gradient in zip(names, gradients[3:]):
        stored = network.weight(name).detach().float().reshape(-1)
        kernels.append({"name": name, "first": stored[:4].tolist(), **summary(gradient)})
    return {"class": index, "logit": float(logits[0, index]), "layers": layers, "weights": kernels}


def last_spatial(network, x):
    with torch.no_grad():
        network(x)
    best = None
    for node in network.nodes:
        value = network.values.get(node.output[0])
        if value is not None and value.dim() == 4 and min(value.shape[1:]) > 1:
            if value.shape[2] * value.shape[3] > 1 and node.op_type != "Transpose":
                best = node.output[0]
    return best


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--assets", type=pathlib.Path, required=True)
    parser.add_argument("--architectures", type=pathlib.Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    result = {"torch": torch.__version__, "networks": {}}
    for model in tomllib.loads((options.assets / "models.toml").read_text())["model"]:
        if "feature_map" not in model:
            continue
        network = OnnxNetwork(options.assets / model["file"], torch.float64)
        x = reference_input(options.assets, model)[:1].double()
        result["networks"][model["id"]] = record(network, x, model["feature_map"])
        print(model["id"], result["networks"][model["id"]]["logit"])
    if options.architectures:
        result["architectures"] = {}
        for path in sorted(options.architectures.glob("*.onnx")):
            network = OnnxNetwork(path, torch.float64)
            shape = [d.dim_value for d in network.graph.input[0].type.tensor_type.shape.dim][1:]
            side = max(shape) or 224
            shape = [1, 3, side, side] if shape and shape[0] == 3 else [1, side, side, 3]
            scale = 1.0 if shape[3] == 3 else 0.01
            grid = np.arange(int(np.prod(shape)), dtype=np.float64)
            x = scale * (127.5 + 60 * np.sin(0.011 * grid) + 40 * np.cos(0.37 * grid))
            x = torch.from_numpy(x.astype(np.float32).astype(np.float64).reshape(shape))
            entry = record(network, x, last_spatial(network, x))
            entry["shape"] = shape
            result["architectures"][path.stem] = entry
            print(path.stem, entry["logit"], [layer["name"] for layer in entry["layers"]], flush=True)
            del network
    (HERE / "gradients.json").write_text(json.dumps(result, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
