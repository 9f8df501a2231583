"""Makes the networks of tests/reference/awkward, each with one thing that explanations must refuse.

    python tests/reference/awkward.py

`one-pixel.onnx` ends in a feature map of one pixel, `only-one-pixel.onnx` has no other;
`not-a-number.onnx` takes the square root of negative numbers. All take [N, 3, 16, 16] and have four
classes and seeded random weights.
"""

import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FOLDER = pathlib.Path(__file__).parent / "awkward"
SIDE = 16


class Builder:
    """A chain of nodes; each output is named after its node."""

    def __init__(self):
        self.random = np.random.default_rng(11)
        self.nodes, self.weights, self.last = [], [], "input"

    def add(self, operator, name, *shapes, **attributes):
        inputs = [self.last]
        for index, shape in enumerate(shapes):
            values = self.random.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
            inputs.append(f"{name}.{index}")
            self.weights.append(numpy_helper.from_array(values.astype(np.float32), inputs[-1]))
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        self.last = name
        return self

    def classify(self, width):
        self.add("GlobalAveragePool", "pooled").add("Flatten", "features")
        return self.add("Gemm", "logits", (4, width), (4,), transB=1)

    def save(self, name):
        tensor = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes, name,
            [tensor("input", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
            [tensor("logits", TensorProto.FLOAT, ["N", 4])],
            self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.checker.check_model(model)
        (FOLDER / f"{name}.onnx").write_bytes(model.SerializeToString())


def main():
    FOLDER.mkdir(exist_ok=True)
    half = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}
    net = Builder().add("Conv", "conv1", (8, 3, 4, 4), (8,), kernel_shape=[4, 4], strides=[4, 4])
    net.add("Relu", "relu1").add("Conv", "conv2", (12, 8, 4, 4), (12,), kernel_shape=[4, 4])
    net.add("Relu", "relu2").classify(12).save("one-pixel")
    net = Builder().add("Conv", "conv1", (8, 3, 16, 16), (8,), kernel_shape=[16, 16])
    net.add("Relu", "relu1").classify(8).save("only-one-pixel")
    net = Builder().add("Conv", "conv1", (8, 3, 3, 3), (8,), **half).add("Sqrt", "root")
    net.classify(8).save("not-a-number")


if __name__ == "__main__":
    main()
