#!/usr/bin/env python3
"""Gradients of a logit by PyTorch autograd in float64, as a small fixture for `cargo test --test gradients`.

For each network: the gradient of the top logit with respect to the last feature map, one half-way
down, the input, and three weights. Of each gradient its norm, its product with a fixed vector, and 24
entries are kept; and, as `float32`, how far PyTorch's own gradient in float32 is from all that.

The derivative of a piecewise smooth function is compared where it has one: some values of the photograph (or
of the pattern, for random networks) are moved a little, until no rectifier lies within rounding of its
kink (`kinks.py`). `moved` says which values, and where to.
With --architectures also for the networks that architectures.py makes (else theirs are kept as they are).

    .venv/bin/python tests/reference/gradients.py [--architectures target/architectures]
"""

import argparse
import hashlib
import json
import os
import pathlib
import tomllib

import numpy as np
import torch

from kinks import moved
from torch_network import OnnxNetwork, attributes, key

HERE = pathlib.Path(__file__).resolve().parent
ASSETS = pathlib.Path(os.environ.get("GRAFTD_ASSETS", HERE.parents[1] / "../shared/assets"))


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


def fold(network, kernel):
    """What a batch norm or a product behind a convolution multiplies its channels with; empty where
    there is none. A runtime may keep the kernel with this factor already in it."""
    conv = next(node for node in network.nodes if kernel in node.input[1:2])
    behind = [node for node in network.nodes if conv.output[0] in node.input]
    if conv.op_type != "Conv" or len(behind) != 1:
        return []
    node, names = behind[0], list(behind[0].input)
    if node.op_type == "BatchNormalization":
        scale, variance = (network.weight(names[i]).detach() for i in (1, 4))
        factors = scale / torch.sqrt(variance + attributes(node).get("epsilon", 1e-5))
    elif node.op_type == "Mul":
        names.remove(conv.output[0])
        if not names or key(names[0]) not in network.weights:
            return []
        factors = network.weight(names[0]).detach().reshape(-1)
    else:
        return []
    channels = network.weight(kernel).shape[0]
    return [float(f"{f:.9g}") for f in factors] if len(factors) == channels else []


def gradients(network, x, last, index=None):
    """By the last map, one between, the input and three weights: (class, logit, names, gradients)."""
    x = x.clone().requires_grad_(True)
    logits = network(x)
    index = int(logits[0].argmax()) if index is None else index
    between, kernels = middle(network, x, last), weights(network)
    wanted = [network.values[last], network.values[between], x]
    found = torch.autograd.grad(logits[0, index], wanted + [network.weight(n) for n in kernels])
    return index, logits[0, index].item(), [last, between, network.input], kernels, found


def difference(kept, gradient):
    """As `difference` of tests/gradients/autograd.rs."""
    flat = gradient.detach().double().reshape(-1).numpy()
    length = kept["norm"]
    whole = abs(np.linalg.norm(flat) - length) / length
    product = flat @ np.cos(0.7 * np.arange(flat.size))
    along = abs(product - kept["product"]) / (length * np.sqrt(flat.size / 2))
    entries = np.abs(flat[kept["at"]] - kept["values"]).max() / np.abs(flat).max()
    return float(f"{max(whole, along, entries):.1e}")


def record(path, original, last=None):
    """What the fixture keeps of one network, and how far PyTorch's own float32 is from it."""
    exact, rounded = OnnxNetwork(path, torch.float64), OnnxNetwork(path, torch.float32)
    last = last or last_spatial(exact, original.double())
    x = moved(exact, rounded, original)
    at = torch.nonzero((x != original).reshape(-1)).reshape(-1)
    values = [float(str(value)) for value in x.reshape(-1)[at].numpy()]
    index, logit, layers, kernels, found = gradients(exact, x.double(), last)
    kept = [{"name": n, **summary(g)} for n, g in zip(layers + kernels, found)]
    for name, entry in zip(kernels, kept[3:]):
        weight = exact.weight(name).detach().float()
        entry["shape"], entry["fold"] = list(weight.shape), fold(exact, name)
        entry["first"] = weight.reshape(-1)[:4].tolist()
    del exact, found
    *_, narrow = gradients(rounded, x.float(), last, index)
    for entry, gradient in zip(kept, narrow):
        entry["float32"] = difference(entry, gradient)
    print(path.stem, index, f"{len(at)} values moved;",
          *(f"{entry['float32']:.0e}" for entry in kept), flush=True)
    return {"class": index, "logit": logit, "moved": {"at": at.tolist(), "values": values},
            "layers": kept[:3], "weights": kept[3:]}


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
    parser.add_argument("--assets", type=pathlib.Path, default=ASSETS)
    parser.add_argument("--architectures", type=pathlib.Path,
                        help="the folder of architectures.py")
    parser.add_argument("--only", nargs="+", metavar="ID", help="renew these and keep the others")
    options = parser.parse_args()
    torch.set_num_threads(1)
    fixture = HERE / "gradients.json"
    result = json.loads(fixture.read_text())
    result["torch"] = torch.__version__.split("+")[0]

    def renew(group, name, make):
        if not options.only or name in options.only:
            result[group][name] = make()
            fixture.write_text(json.dumps(result, separators=(",", ":")) + "\n")

    for model in tomllib.loads((options.assets / "models.toml").read_text())["model"]:
        if "feature_map" in model:
            x = reference_input(options.assets, model)[:1]
            file, last = options.assets / model["file"], model["feature_map"]
            renew("networks", model["id"], lambda: record(file, x, last))
    if options.architectures:
        for path in sorted(options.architectures.glob("*.onnx")):
            renew("architectures", path.stem, lambda: of_architecture(path))


def of_architecture(path):
    shape = input_shape(OnnxNetwork(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"sha256": digest, "shape": shape, **record(path, wave(shape))}


def input_shape(network):
    """Of one image; 224 pixels where the file leaves the size open."""
    dims = next(i for i in network.graph.input if i.name == network.input).type.tensor_type.shape.dim
    shape = [d.dim_value for d in dims][1:]
    channels_first = shape[0] == 3
    side = (shape[1] if channels_first else shape[0]) or 224
    return [1, 3, side, side] if channels_first else [1, side, side, 3]


def wave(shape):
    """A smooth pattern with some detail, -1.7 to 1.7."""
    at = np.arange(int(np.prod(shape)), dtype=np.float64)
    x = np.sin(0.011 * at) + 0.7 * np.cos(0.37 * at)
    return torch.from_numpy(x.astype(np.float32).reshape(shape))


if __name__ == "__main__":
    main()
