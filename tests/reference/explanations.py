#!/usr/bin/env python3
"""Raw maps of pytorch-grad-cam, before its scaling, as a fixture for `cargo test --test explanations`.

Three photographs x six networks x every method that the library has, at the last feature map; some
with eigen smoothing; and the Keras tutorial's recipe (probability, mean of gradients, channel mean) by
autograd. Of one network also a layer half-way down whose activations have both signs, in float64. The
occluding methods run mobilenet-v2 and googlenet a thousand times a photograph, which takes half an hour. With --time also the time of its Grad-CAM on one thread.

    .venv/bin/python tests/reference/explanations.py
"""

import argparse
import json
import pathlib
import time
import tomllib

import numpy as np
import torch
from pytorch_grad_cam import (AblationCAM, EigenCAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM,
                              ScoreCAM, XGradCAM)
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from gradients import ASSETS, reference_input
from torch_network import OnnxNetwork

HERE = pathlib.Path(__file__).parent
# Their last feature maps end in a rectifier: pytorch-grad-cam ablates to zero only where the least
# activation is zero (elsewhere to -1e7, against the paper).
NETWORKS = ["resnet20-cifar10", "person-mobilenet-v1-0.25-96", "mobilenet-v1-0.25-128",
            "regnetx-200mf", "mobilenet-v2", "googlenet"]
# A sum of a residual block: it ends in no rectifier.
SIGNED = {"mobilenet-v2": "add_73"}
METHODS = {
    "grad-cam": GradCAM, "grad-cam++": GradCAMPlusPlus, "hires-cam": HiResCAM,
    "xgrad-cam": XGradCAM, "layer-cam": LayerCAM, "eigen-cam": EigenCAM,
    "score-cam": ScoreCAM, "ablation-cam": AblationCAM,
}


def raw_map(method, network, layer, x, index, eigen_smooth=False):
    """What `get_cam_image` returns: the library's map before rectification and scaling."""
    kept = {}
    with method(model=network, target_layers=[network.layer(layer)]) as cam:
        original = cam.get_cam_image

        def keep(*arguments, **named):
            kept["raw"] = original(*arguments, **named)
            return kept["raw"]

        cam.get_cam_image = keep
        cam(input_tensor=x, targets=[ClassifierOutputTarget(index)], eigen_smooth=eigen_smooth)
    return kept["raw"][0]


def oriented(smooth, plain):
    """A principal component has the sign that the decomposition happens to give it: turned so that it
    shows the evidence that the plain sum over the channels shows."""
    return smooth if (smooth * plain).sum() >= 0 else -smooth


def keras_recipe(network, layer, x, index):
    """https://keras.io/examples/vision/grad_cam: mean over channels of pooled gradient x map."""
    logits = network(x)
    probability = torch.softmax(logits, 1)[0, index]
    map_ = network.values[layer]
    gradient = torch.autograd.grad(probability, map_)[0]
    heat = (gradient.mean((0, 2, 3))[None, :, None, None] * map_).mean(1)[0]
    heat = torch.clamp(heat, min=0) / heat.max()
    return heat.detach().numpy()


def ablated(network, layer, x, index):
    """Ablation-CAM as the paper has it: the weight of a channel is the share of the score that is lost
    when it is zero."""
    with torch.no_grad():
        whole = network(x)[0, index]
        activations = network.values[layer][0].clone()
        heat = torch.zeros_like(activations[0])
        for channel, plane in enumerate(activations):
            without = activations[None].clone()
            without[0, channel] = 0
            hook = network.layer(layer).register_forward_hook(lambda *_: without)
            heat += (whole - network(x)[0, index]) / whole * plane
            hook.remove()
    return heat.numpy()


def signed(path, layer, photographs):
    """The raw maps at a layer whose activations have both signs, all in float64. Where the least
    activation is not zero, pytorch-grad-cam ablates to -1e7: Ablation-CAM is computed here."""
    network = OnnxNetwork(path, torch.float64)
    result = []
    for x in photographs:
        x = x.double()
        index = int(network(x)[0].argmax())
        assert network.values[layer].min() < 0
        maps = {name: ablated(network, layer, x, index) if name == "ablation-cam"
                else raw_map(m, network, layer, x, index) for name, m in METHODS.items()}
        height, width = maps["grad-cam"].shape
        result.append({"class": index, "height": height, "width": width,
                       "raw": {name: numbers(m) for name, m in maps.items()}})
    return {"layer": layer, "photographs": result}


def numbers(array):
    return [float(f"{value:.7g}") for value in np.asarray(array, np.float64).reshape(-1)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--assets", type=pathlib.Path, default=ASSETS)
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--only-signed", action="store_true",
                        help="renew the layers with both signs and keep all else")
    parser.add_argument("--only", choices=NETWORKS, nargs="+", default=NETWORKS,
                        help="renew these and keep the others")
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = tomllib.loads((options.assets / "models.toml").read_text())["model"]
    fixture = HERE / "explanations.json"
    result = json.loads(fixture.read_text()) if fixture.exists() else {}
    for model in sorted((m for m in models if m["id"] in options.only),
                        key=lambda m: NETWORKS.index(m["id"])):
        path, inputs = options.assets / model["file"], reference_input(options.assets, model).split(1)
        both_signs = SIGNED.get(model["id"])
        if options.only_signed:
            if both_signs:
                result[model["id"]]["signed"] = signed(path, both_signs, inputs)
                fixture.write_text(json.dumps(result, separators=(",", ":")) + "\n")
            continue
        network = OnnxNetwork(path)
        layer = model["feature_map"]
        photographs = []
        for x in inputs:
            index = int(network(x)[0].argmax())
            maps = {name: raw_map(m, network, layer, x, index) for name, m in METHODS.items()}
            smooth = {name: oriented(raw_map(METHODS[name], network, layer, x, index, True), maps[name])
                      for name in ("grad-cam", "hires-cam")}
            keras = keras_recipe(network, layer, x, index)
            height, width = maps["grad-cam"].shape
            photographs.append({
                "class": index, "height": height, "width": width,
                "raw": {name: numbers(m) for name, m in maps.items()},
                "eigen_smoothing": {name: numbers(m) for name, m in smooth.items()},
                "keras": numbers(keras),
            })
        result[model["id"]] = {"layer": layer, "photographs": photographs}
        if both_signs:
            result[model["id"]]["signed"] = signed(path, both_signs, inputs)
        print(model["id"], [p["class"] for p in photographs], flush=True)
        if options.time and model["id"] == "mobilenet-v2":
            print("grad-cam, one thread:", measure(network, layer, x, index))
        fixture.write_text(json.dumps(result, separators=(",", ":")) + "\n")


def measure(network, layer, x, index):
    cam = GradCAM(model=network, target_layers=[network.layer(layer)])
    times = []
    for _ in range(20):
        began = time.perf_counter()
        cam(input_tensor=x, targets=[ClassifierOutputTarget(index)])
        times.append(1000 * (time.perf_counter() - began))
    return f"{np.median(times):.1f} ms"


if __name__ == "__main__":
    main()
