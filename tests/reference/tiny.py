"""Makes the tiny networks of tests/reference/tiny and what onnxruntime answers for them.

    python tests/reference/tiny.py

Two convolutions, global average pooling, a fully connected layer, four classes, 16 x 16 input, seeded
random weights: small enough to be committed, with everything that a backbone must have. `logits.onnx` ends
with the fully connected layer, `softmax.onnx`, `log_softmax.onnx` and `sigmoid.onnx` are the same network
with one operator after it, and `features.onnx` stops at the pooled features. `expected.json` holds their answers
for one input: element i of the row-major [3, 16, 16] tensor is sin(i).
"""

import json
import pathlib

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

FOLDER = pathlib.Path(__file__).parent / "tiny"
SIDE = 16
AFTER_LOGITS = {
    "softmax": ("Softmax", {"axis": 1}), "log_softmax": ("LogSoftmax", {"axis": 1}),
    "sigmoid": ("Sigmoid", {}),
}


def network(ending: str) -> onnx.ModelProto:
    random = np.random.default_rng(7)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        values = random.normal(size=shape) / np.sqrt(fan_in)
        return numpy_helper.from_array(values.astype(np.float32), name)

    weights = [
        weight("w1", 8, 3, 3, 3), weight("b1", 8),
        weight("w2", 12, 8, 3, 3), weight("b2", 12),
        weight("w3", 4, 12), weight("b3", 4),
    ]
    square = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}
    nodes = [
        helper.make_node("Conv", ["input", "w1", "b1"], ["conv1"], "conv1", **square),
        helper.make_node("Relu", ["conv1"], ["relu1"], "relu1"),
        helper.make_node("Conv", ["relu1", "w2", "b2"], ["conv2"], "conv2", **square),
        helper.make_node("Relu", ["conv2"], ["relu2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["relu2"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["features"], "flatten"),
        helper.make_node("Gemm", ["features", "w3", "b3"], ["logits"], "classifier", transB=1),
    ]
    if ending == "features":
        nodes.pop()
    if ending in AFTER_LOGITS:
        operator, attributes = AFTER_LOGITS[ending]
        nodes.append(helper.make_node(operator, ["logits"], [ending], ending, **attributes))
    used = {name for node in nodes for name in node.input}
    width = 12 if ending == "features" else 4
    graph = helper.make_graph(
        nodes,
        ending,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(ending, TensorProto.FLOAT, ["N", width])],
        [tensor for tensor in weights if tensor.name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    row = np.sin(np.arange(3 * SIDE * SIDE)).astype(np.float32).reshape(1, 3, SIDE, SIDE)
    expected = {}
    for ending in ["logits", *AFTER_LOGITS, "features"]:
        path = FOLDER / f"{ending}.onnx"
        path.write_bytes(network(ending).SerializeToString())
        session = onnxruntime.InferenceSession(path)
        expected[ending] = [float(value) for value in session.run(None, {"input": row})[0][0]]
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
