#!/usr/bin/env python3
"""Every architecture of the coverage table, made, run in onnxruntime, run in graftd, compared.

Twelve networks get seeded random weights, are exported to ONNX the way a user would do it, and answer
for three drawn pictures. Keras applications keep the softmax, the NHWC input and the preprocessing
layers that their export carries; AlexNet, which Keras lacks, and VGG-16, whose export needs too much
memory, are written with plain onnx helpers.

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
    keras: str  # name in keras.applications; empty where PLAIN has the network
    size: int
    preset: str  # a key of PRESETS


ARCHITECTURES = [
    Architecture("mobilenet-v1", "MobileNet v1", "MobileNet", 224, "tf"),
    Architecture("mobilenet-v2", "MobileNet v2", "MobileNetV2", 224, "tf"),
    Architecture("mobilenet-v3-large", "MobileNet v3 large", "MobileNetV3Large", 224, "raw"),
    Architecture("resnet-50", "ResNet-50", "ResNet50", 224, "keras-caffe"),
    Architecture("densenet-121", "DenseNet-121", "DenseNet121", 224, "imagenet"),
    Architecture("inception-v3", "Inception v3", "InceptionV3", 299, "tf"),
    Architecture("inception-resnet-v2", "Inception-ResNet v2", "InceptionResNetV2", 299, "tf"),
    Architecture("xception", "Xception", "Xception", 299, "tf"),
    Architecture("vgg-16", "VGG-16", "", 224, "keras-caffe"),
    Architecture("alexnet", "AlexNet", "", 224, "imagenet"),
    Architecture("nasnet-mobile", "NASNet mobile", "NASNetMobile", 224, "tf"),
    Architecture("efficientnet-b0", "EfficientNet-B0", "EfficientNetB0", 224, "raw"),
]

PRESETS = {
    # name: (channel order, scale, mean, std); normalised = (pixel * scale - mean) / std
    "imagenet": ("rgb", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "tf": ("rgb", 1 / 127.5, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    "keras-caffe": ("bgr", 1.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)),
    "raw": ("rgb", 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}

FLAGS = {
    "imagenet": ["--preset", "imagenet"],
    "tf": ["--preset", "tf"],
    "keras-caffe": ["--preset", "caffe", "--mean", "103.939,116.779,123.68"],
    "raw": ["--preset", "unit", "--scale", "1"],
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


# --- networks from onnx helpers -----------------------------------------------------------------


class Plain:
    """A chain of ONNX nodes with seeded weights, NCHW, calibrated and saved with a softmax."""

    def __init__(self):
        self.random = np.random.default_rng(SEED)
        self.nodes, self.weights, self.last = [], {}, "input"

    def add(self, operator, name, *weights, **attributes):
        from onnx import helper

        inputs = [self.last, *weights]
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        self.last = name

    def weighted(self, operator, name, shape, **attributes):
        deviation = math.sqrt(2 / np.prod(shape[1:]))
        kernel = self.random.standard_normal(shape, np.float32) * np.float32(deviation)
        bias = self.random.standard_normal(shape[0], np.float32) * np.float32(0.1)
        self.weights |= {f"{name}.weight": kernel, f"{name}.bias": bias}
        self.add(operator, name, f"{name}.weight", f"{name}.bias", **attributes)

    def convolution(self, name, shape, stride=1, pad=1, group=1):
        window = {"kernel_shape": shape[2:], "strides": [stride] * 2, "pads": [pad] * 4}
        self.weighted("Conv", name, shape, group=group, **window)
        self.add("Relu", f"{name}.relu")

    def response_normalisation(self, name):
        self.add("LRN", name, size=5, alpha=1e-4, beta=0.75, bias=2.0)

    def pool(self, name, side):
        self.add("MaxPool", name, kernel_shape=[side, side], strides=[2, 2])

    def classifier(self, inputs):
        """The three fully connected layers that both networks end in, without the softmax."""
        self.add("Flatten", "flatten", axis=1)
        for name, shape in (("fc6", (4096, inputs)), ("fc7", (4096, 4096))):
            self.weighted("Gemm", name, shape, transB=1)
            self.add("Relu", f"{name}.relu")
        self.weighted("Gemm", "fc8", (1000, 4096), transB=1)

    def model(self):
        from onnx import TensorProto, helper, numpy_helper

        def value(name, shape):
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape])

        graph = helper.make_graph(
            self.nodes,
            "plain",
            [value("input", [3, 224, 224])],
            [value(self.last, [1000])],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        # IR version 8 goes with opset 17; readers refuse files from a newer IR than theirs.
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def save(self, row, path):
        import onnx
        import onnxruntime

        session = onnxruntime.InferenceSession(self.model().SerializeToString())
        batch = normalise(drawn_pictures(CALIBRATION_PICTURES, row.size, SEED), row.preset)
        values = np.concatenate(
            [session.run(None, {"input": image[None]})[0] for image in batch.transpose(0, 3, 1, 2)]
        )
        scale = np.float32(LOGIT_SPREAD / (values - values.mean(axis=0)).std())
        self.weights["fc8.weight"] *= scale
        self.weights["fc8.bias"] -= values.mean(axis=0)
        self.weights["fc8.bias"] *= scale
        self.add("Softmax", "probabilities", axis=1)
        onnx.save(self.model(), path)


def export_alexnet(row, path):
    """AlexNet as published: grouped convolutions, local response normalisation."""
    network = Plain()
    network.convolution("conv1", (96, 3, 11, 11), stride=4, pad=2)
    network.response_normalisation("norm1")
    network.pool("pool1", 3)
    network.convolution("conv2", (256, 48, 5, 5), pad=2, group=2)
    network.response_normalisation("norm2")
    network.pool("pool2", 3)
    network.convolution("conv3", (384, 256, 3, 3))
    network.convolution("conv4", (384, 192, 3, 3), group=2)
    network.convolution("conv5", (256, 192, 3, 3), group=2)
    network.pool("pool5", 3)
    network.classifier(256 * 6 * 6)
    network.save(row, path)


def export_vgg16(row, path):
    """VGG-16, configuration D. The export of Keras' own asks for more than 20 GB of memory."""
    network, channels = Plain(), 3
    for block, (width, depth) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], 1):
        for layer in range(1, depth + 1):
            network.convolution(f"conv{block}_{layer}", (width, channels, 3, 3))
            channels = width
        network.pool(f"pool{block}", 2)
    network.classifier(512 * 7 * 7)
    network.save(row, path)


PLAIN = {"alexnet": export_alexnet, "vgg-16": export_vgg16}


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

    preprocessing = [*FLAGS[row.preset], "--size", str(row.size), "--resize", "squash"]
    run("models", "add", str(path), "--id", row.id, *preprocessing)
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
        PLAIN.get(row.id, export_keras)(row, unfinished)
        unfinished.rename(path)
    pictures = drawn_pictures(PICTURES, row.size, SEED + 1)
    expected, operators = reference_logits(row, path, pictures)
    (out / f"{row.id}.operators.json").write_text(json.dumps(operators, indent=1, sort_keys=True))
    np.save(out / f"{row.id}.logits.npy", expected.astype(np.float32))
    spread = f"{expected.std(axis=1).mean():.2f}"
    if graftd is None:
        return [row.title, "not asked", "", "", spread, "", "", ""], True
    state = out / "state"
    state.mkdir(exist_ok=True)
    try:
        answered, inspected = graftd_logits(row, path, pictures, graftd, str(state))
    except (RuntimeError, OSError) as error:
        return [row.title, f"**no**: {error}", "", "", spread, "", "", ""], False
    same = [
        np.argsort(-a)[:5].tolist() == np.argsort(-e)[:5].tolist()
        for a, e in zip(answered, expected)
    ]
    difference = np.max(np.abs(answered - expected)) / np.max(np.abs(expected))
    passed = all(same) and difference < 1e-3
    spatial = [layer for layer in inspected["layers"] if layer["spatial"]]
    return [
        row.title,
        "yes",
        f"{sum(same)} of {len(same)}",
        f"{difference:.1e}",
        spread,
        str(sum(layer["waist"] for layer in inspected["layers"])),
        str(inspected["embedding"]["width"]),
        f"{sum(layer['explainable'] for layer in spatial)} of {len(spatial)}",
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
    header += ["waists", "embedding width", "layers that can be explained"]
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
