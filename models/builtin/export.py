"""Step 4: write the averaged student as an ONNX file with float16 weights.

    python export.py run/checkpoint.pt --out builtin.onnx
    python export.py --random 1 --out random.onnx      # the same shape, nothing learnt

Batch norm is folded into the convolutions. Each initialiser is float16, followed by a Cast to
float32, so that any ONNX runtime computes in float32. Input `input` [1, 3, 128, 128], outputs
`embedding` [1, 960]; the last feature map is the tensor `features` [1, 960, 8, 8].
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from network import EMBEDDING_WIDTH, INPUT_SIZE, ConvNorm, InvertedResidual, Student

OPSET = 13


class Writer:
    """Collects ONNX nodes and initialisers."""

    def __init__(self):
        self.nodes, self.initialisers = [], []

    def node(self, operator, inputs, output, **attributes):
        """Append one node; returns its output's name."""
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name, value):
        """A float16 initialiser, cast to float32."""
        half = value.detach().numpy().astype(np.float16)
        self.initialisers.append(numpy_helper.from_array(half, f"{name}.half"))
        return self.node("Cast", [f"{name}.half"], name, to=TensorProto.FLOAT)

    def convolution(self, block, x, name, output=None):
        """Convolution with its batch norm folded in, and its ReLU if it has one."""
        conv, norm = block[0], block[1]
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        inputs = [
            x,
            self.constant(f"{name}.weight", conv.weight * factor[:, None, None, None]),
            self.constant(f"{name}.bias", norm.bias - norm.running_mean * factor),
        ]
        last = len(block) == 2
        x = self.node(
            "Conv", inputs, output if last and output else f"{name}.conv", group=conv.groups,
            kernel_shape=conv.kernel_size, strides=conv.stride,
            pads=[*conv.padding, *conv.padding],
        )
        return x if last else self.node("Relu", [x], output or f"{name}.relu")


def to_onnx(student):
    """The ONNX model of a trained student."""
    writer, x = Writer(), "input"
    for number, block in enumerate(student.blocks):
        name = f"blocks.{number}"
        if isinstance(block, InvertedResidual):
            entry = x
            for part, step in zip(("expand", "depthwise", "project"), block.layers, strict=True):
                x = writer.convolution(step, x, f"{name}.{part}")
            if block.residual:
                x = writer.node("Add", [entry, x], f"{name}.add")
        elif isinstance(block, ConvNorm):
            last = number == len(student.blocks) - 1
            x = writer.convolution(block, x, name, "features" if last else None)
    x = writer.node("GlobalAveragePool", [x], "pool")
    writer.node("Flatten", [x], "embedding", axis=1)
    graph = helper.make_graph(
        writer.nodes, "graftd-builtin",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, INPUT_SIZE, INPUT_SIZE])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, EMBEDDING_WIDTH])],
        writer.initialisers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


def random_student(seed):
    """Untrained weights; batch norm's statistics from noise, so that activations keep a scale."""
    torch.manual_seed(seed)
    student = Student()
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        student.train()(torch.randn(32, 3, INPUT_SIZE, INPUT_SIZE))
    return student


def largest_difference(model, student):
    """Between onnxruntime and PyTorch on noise, relative to the largest value."""
    import onnxruntime

    x = torch.randn(1, 3, INPUT_SIZE, INPUT_SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = student.eval()(x).numpy()
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found = session.run(None, {"input": x.numpy()})[0]
    return np.abs(found - expected).max() / np.abs(expected).max()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--random", type=int, metavar="SEED")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.checkpoint:
        student = Student()
        student.load_state_dict(torch.load(arguments.checkpoint)["average"])
    elif arguments.random is not None:
        student = random_student(arguments.random)
    else:
        parser.error("name a checkpoint, or --random SEED")
    model = to_onnx(student.eval())
    arguments.out.write_bytes(model.SerializeToString())
    difference = largest_difference(model, student)
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes, differs by {difference:.1e}")


if __name__ == "__main__":
    main()
