#!/usr/bin/env python3
"""Every architecture of the coverage table, made, run in onnxruntime, run in graftd, compared.

Twelve networks get seeded random weights, are exported to ONNX the way a user would do it, and answer
for three drawn pictures. Keras applications keep the softmax, the NHWC input and the preprocessing
layers that their export carries; AlexNet, which Keras lacks, is written with plain onnx helpers in
its original form (two groups, local response normalisation).

Random weights usually give flat logits, on which any two programs agree. Here batch normalisation
takes its statistics from drawn pictures, kernels are drawn with He's variance, and the classifier is
scaled so that the logits spread by about two and depend on the picture.

    python3 -m venv .venv && .venv/bin/pip install -r tests/reference/requirements.txt
    .venv/bin/python tests/reference/architectures.py --graftd target/release/graftd

Networks (1.6 GB) and answers are kept in --out; a second run only compares.
"""

import argparse
import collections
import json
import math
import os
import pathlib
import subprocess
import sys
from dataclasses import dataclass

import numpy as np

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SEED = 20251123
PICTURES = 3
CALIBRATION_PICTURES = 16
LOGIT_SPREAD = 2.0


@dataclass(frozen=True)
class Architecture:
    """One row of the table: where it comes from and what its input wants."""

    id: str
    title: str
    keras: str  # name in keras.applications, or empty
    size: int
    preset: str  # graftd's name of the preprocessing, or `raw` for pixels 0..255


ARCHITECTURES = [
    Architecture("mobilenet-v1", "MobileNet v1", "MobileNet", 224, "tf"),
    Architecture("mobilenet-v2", "MobileNet v2", "MobileNetV2", 224, "tf"),
    Architecture("mobilenet-v3-large", "MobileNet v3 large", "MobileNetV3Large", 224, "raw"),
    Architecture("resnet-50", "ResNet-50", "ResNet50", 224, "caffe"),
    Architecture("densenet-121", "DenseNet-121", "DenseNet121", 224, "imagenet"),
    Architecture("inception-v3", "Inception v3", "InceptionV3", 299, "tf"),
    Architecture("inception-resnet-v2", "Inception-ResNet v2", "InceptionResNetV2", 299, "tf"),
    Architecture("xception", "Xception", "Xception", 299, "tf"),
    Architecture("vgg-16", "VGG-16", "VGG16", 224, "caffe"),
    Architecture("alexnet", "AlexNet", "", 224, "imagenet"),
    Architecture("nasnet-mobile", "NASNet mobile", "NASNetMobile", 224, "tf"),
    Architecture("efficientnet-b0", "EfficientNet-B0", "EfficientNetB0", 224, "raw"),
]

PRESETS = {
    # name: (channel order, scale, mean, std); normalised = (pixel * scale - mean) / std
    "imagenet": ("rgb", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "tf": ("rgb", 1 / 127.5, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    "caffe": ("bgr", 1.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)),
    "raw": ("rgb", 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


# --- pictures -----------------------------------------------------------------------------------


def drawn_pictures(count, size, seed):
    """`count` pictures of `size` x `size`, RGB bytes: a colour gradient under discs and bars."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    pictures = np.empty((count, size, size, 3), np.uint8)
    for picture in pictures:
        angle = random.uniform(0, 2 * math.pi)
        ramp = (np.cos(angle) * x + np.sin(angle) * y)[..., None]
        canvas = random.uniform(0, 255, 3) * (1 - ramp) + random.uniform(0, 255, 3) * ramp
        for _ in range(random.integers(6, 14)):
            cx, cy, radius = *random.uniform(0, 1, 2), random.uniform(0.04, 0.3)
            if random.random() < 0.5:
                inside = (x - cx) ** 2 + (y - cy) ** 2 < radius**2
            else:
                tilt = random.uniform(0, math.pi)
                along = np.cos(tilt) * (x - cx) + np.sin(tilt) * (y - cy)
                inside = np.mod(along, radius) < radius / 2
            mix = random.uniform(0.4, 1.0)
            canvas[inside] = (1 - mix) * canvas[inside] + mix * random.uniform(0, 255, 3)
        canvas += random.normal(0, 6, canvas.shape)
        picture[:] = np.clip(canvas, 0, 255).astype(np.uint8)
    return pictures


def normalise(pictures, preset):
    """What graftd's preprocessing of the same name feeds the network, NHWC float32."""
    order, scale, mean, std = PRESETS[preset]
    pixels = pictures.astype(np.float32)
    if order == "bgr":
        pixels = pixels[..., ::-1]
    return (pixels * np.float32(scale) - np.float32(mean)) / np.float32(std)


# --- networks from Keras ------------------------------------------------------------------------


def export_keras(row, path):
    """Builds the Keras application, calibrates its random weights, writes the ONNX file."""
    import keras

    keras.utils.clear_session()
    keras.utils.set_random_seed(SEED)
    model = getattr(keras.applications, row.keras)(weights=None)
    batch = normalise(drawn_pictures(CALIBRATION_PICTURES, row.size, SEED), row.preset)
    randomise(model)
    calibrate_batch_norms(model, batch)
    calibrate_classifier(model, batch)
    model.export(str(path), format="onnx", verbose=False)


def randomise(model):
    """Kernels with He's variance, batch norms with a scale and a shift that do something."""
    random = np.random.default_rng(SEED)
    for layer in model.layers:
        for weight in layer.weights:
            shape, kind = weight.shape, weight.name
            if kind in ("kernel", "depthwise_kernel", "pointwise_kernel"):
                fan_in = np.prod(shape[:2] if kind == "depthwise_kernel" else shape[:-1])
                weight.assign(random.normal(0, math.sqrt(2 / fan_in), shape))
            elif kind == "gamma":
                weight.assign(random.uniform(0.6, 1.4, shape))
            elif kind in ("beta", "bias"):
                weight.assign(random.normal(0, 0.1, shape))


def calibrate_batch_norms(model, batch):
    """One training-mode run whose batch statistics become the moving ones."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
        elif isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    model(batch, training=True)


def calibrate_classifier(model, batch):
    """Logits that spread by LOGIT_SPREAD over the classes and have mean zero over the batch."""
    import keras

    classifier = [layer for layer in model.layers if layer.weights][-1]
    activation, classifier.activation = classifier.activation, keras.activations.linear
    logits = keras.Model(model.input, classifier.output)
    values = np.asarray(logits(batch, training=False)).reshape(len(batch), -1)
    classifier.activation = activation
    scale = LOGIT_SPREAD / (values - values.mean(axis=0)).std()
    kernel, bias = classifier.get_weights()
    classifier.set_weights([kernel * scale, (bias - values.mean(axis=0)) * scale])


# --- AlexNet from onnx helpers ------------------------------------------------------------------


def export_alexnet(row, path):
    """AlexNet as published: grouped convolutions, local response normalisation, three big layers."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(SEED)
    nodes, weights = [], {}

    def add(operator, source, name, **attributes):
        nodes.append(helper.make_node(operator, source, [name], name=name, **attributes))
        return name

    def weighted(operator, source, name, shape, **attributes):
        weights[f"{name}.weight"] = random.normal(
            0, math.sqrt(2 / np.prod(shape[1:])), shape
        ).astype(np.float32)
        weights[f"{name}.bias"] = random.normal(0, 0.1, shape[0]).astype(np.float32)
        return add(operator, [source, f"{name}.weight", f"{name}.bias"], name, **attributes)

    def convolution(source, name, shape, stride, pad, group):
        window = {"kernel_shape": shape[2:], "strides": [stride] * 2, "pads": [pad] * 4}
        out = weighted("Conv", source, name, shape, group=group, **window)
        return add("Relu", [out], f"{name}.relu")

    def normalise_and_pool(source, name):
        out = add("LRN", [source], f"{name}.lrn", size=5, alpha=1e-4, beta=0.75, bias=2.0)
        return add("MaxPool", [out], f"{name}.pool", kernel_shape=[3, 3], strides=[2, 2])

    out = convolution("input", "conv1", (96, 3, 11, 11), 4, 2, 1)
    out = normalise_and_pool(out, "conv1")
    out = convolution(out, "conv2", (256, 48, 5, 5), 1, 2, 2)
    out = normalise_and_pool(out, "conv2")
    out = convolution(out, "conv3", (384, 256, 3, 3), 1, 1, 1)
    out = convolution(out, "conv4", (384, 192, 3, 3), 1, 1, 2)
    out = convolution(out, "conv5", (256, 192, 3, 3), 1, 1, 2)
    out = add("MaxPool", [out], "conv5.pool", kernel_shape=[3, 3], strides=[2, 2])
    out = add("Flatten", [out], "flatten", axis=1)
    for name, shape in (("fc6", (4096, 9216)), ("fc7", (4096, 4096))):
        out = weighted("Gemm", out, name, shape, transB=1)
        out = add("Relu", [out], f"{name}.relu")
    weighted("Gemm", out, "fc8", (1000, 4096), transB=1)
    add("Softmax", ["fc8"], "probabilities", axis=1)

    def model(output):
        graph = helper.make_graph(
            nodes,
            "alexnet",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 224, 224])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", 1000])],
            [numpy_helper.from_array(value, name) for name, value in weights.items()],
        )
        # IR version 8 goes with opset 17; readers refuse files from a newer IR than theirs.
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
        )

    batch = normalise(drawn_pictures(CALIBRATION_PICTURES, row.size, SEED), row.preset)
    session = onnxruntime.InferenceSession(model("fc8").SerializeToString())
    values = session.run(["fc8"], {"input": batch.transpose(0, 3, 1, 2)})[0]
    scale = LOGIT_SPREAD / (values - values.mean(axis=0)).std()
    weights["fc8.weight"] *= np.float32(scale)
    weights["fc8.bias"] = (
        (weights["fc8.bias"] - values.mean(axis=0)) * np.float32(scale)
    ).astype(np.float32)
    onnx.save(model("probabilities"), path)


# --- answers ------------------------------------------------------------------------------------


def reference_logits(row, path, pictures):
    """onnxruntime's logits: what enters the softmax that ends the file. Also the operators."""
    import onnx
    import onnxruntime

    model = onnx.load(path)
    operators = collections.Counter(node.op_type for node in model.graph.node)
    producers = {name: node for node in model.graph.node for name in node.output}
    tensor = model.graph.output[0].name
    while producers[tensor].op_type in ("Identity", "Softmax"):
        tensor = producers[tensor].input[0]
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(tensor))
    # Keras' EfficientNet export leaves two inputs that no node reads; onnxruntime would ask for them.
    used = {name for node in model.graph.node for name in node.input}
    for dangling in [value for value in model.graph.input if value.name not in used]:
        model.graph.input.remove(dangling)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    batch = normalise(pictures, row.preset)
    first = session.get_inputs()[0]
    if first.shape[1] == 3:
        batch = batch.transpose(0, 3, 1, 2)
    rows = [session.run([tensor], {first.name: image[None]})[0].reshape(-1) for image in batch]
    return np.stack(rows), operators


def graftd_logits(row, path, pictures, graftd, state):
    """graftd's logits for the same pixels, read from its JSON, and what `inspect` says."""
    from PIL import Image

    def run(*arguments, ok=True):
        done = subprocess.run(
            [graftd, *arguments, "--state-dir", state], capture_output=True, text=True
        )
        if done.returncode != 0 and ok:
            raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr else "failed")
        return done.stdout

    order, scale, mean, std = PRESETS[row.preset]
    if row.preset == "raw":
        numbers = lambda values: ",".join(str(value) for value in values)
        preprocessing = ["--preset", "unit", "--scale", "1", "--mean", numbers(mean)]
        preprocessing += ["--std", numbers(std), "--channels", order]
    else:
        preprocessing = ["--preset", row.preset]
    run("models", "remove", row.id, ok=False)
    run("models", "add", str(path), "--id", row.id, *preprocessing, "--resize", "squash")
    files = []
    for index, picture in enumerate(pictures):
        file = pathlib.Path(state) / f"{row.size}-{index}.png"
        Image.fromarray(picture).save(file)
        files.append(str(file))
    lines = run("predict", *files, "--backbone", row.id, "--top-k", "1000", "--json").splitlines()
    logits = np.full((len(pictures), 1000), np.nan)
    for index, line in enumerate(lines):
        for prediction in json.loads(line)["predictions"]:
            logits[index, prediction["index"]] = prediction["logit"]
    inspected = json.loads(run("models", "inspect", row.id, "--json").splitlines()[0])
    run("models", "remove", row.id, ok=False)
    return logits, inspected


def compare(row, out, graftd):
    """Makes the network if it is not there, asks both programs, returns a row and its verdict."""
    path = out / f"{row.id}.onnx"
    if not path.exists():
        unfinished = out / f"unfinished-{row.id}.onnx"
        (export_keras if row.keras else export_alexnet)(row, unfinished)
        unfinished.rename(path)
    pictures = drawn_pictures(PICTURES, row.size, SEED + 1)
    expected, operators = reference_logits(row, path, pictures)
    (out / f"{row.id}.operators.json").write_text(json.dumps(operators, indent=1, sort_keys=True))
    np.save(out / f"{row.id}.logits.npy", expected.astype(np.float32))
    spread = f"{expected.std(axis=1).mean():.2f}"
    if graftd is None:
        return [row.title, "not asked", "", "", spread, "", ""], True
    state = out / "state"
    state.mkdir(exist_ok=True)
    try:
        answered, inspected = graftd_logits(row, path, pictures, graftd, str(state))
    except (RuntimeError, OSError) as error:
        return [row.title, f"**no**: {error}", "", "", spread, "", ""], False
    same = [
        np.argsort(-a)[:5].tolist() == np.argsort(-e)[:5].tolist()
        for a, e in zip(answered, expected)
    ]
    difference = np.max(np.abs(answered - expected)) / np.max(np.abs(expected))
    passed = all(same) and difference < 1e-3
    waists = inspected.get("waists", "")
    return [
        row.title,
        "yes",
        f"{sum(same)} of {len(same)}",
        f"{difference:.1e}",
        spread,
        str(len(waists) if isinstance(waists, list) else waists),
        str(inspected.get("embedding_width", "")),
    ], passed


def main():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=REPOSITORY / "target/architectures")
    parser.add_argument("--graftd", help="the graftd command; without it only onnxruntime answers")
    parser.add_argument("--only", nargs="*", help="ids of the rows to run")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    header = ["network", "loads", "same top-5", "largest relative difference", "logit spread"]
    header += ["waists", "embedding width"]
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    all_passed = True
    for row in ARCHITECTURES:
        if arguments.only and row.id not in arguments.only:
            continue
        cells, passed = compare(row, arguments.out, arguments.graftd)
        all_passed &= passed
        print("| " + " | ".join(cells) + " |", flush=True)
    return 0 if all_passed else 1


if __name__ == "__main__":
    sys.exit(main())
