"""An ONNX image network as a PyTorch module whose every tensor can be hooked by its ONNX name.

Only what the test networks need; anything else raises. Each output passes through an Identity module
in `taps`, which is what pytorch-grad-cam takes as a target layer.
"""

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import nn


def attributes(node):
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def key(name):
    """Module names may not hold dots."""
    return name.replace(".", "_dot_") or "_"


class OnnxNetwork(nn.Module):
    """`logits` is the tensor before a softmax at the end, if there is one."""

    def __init__(self, path, dtype=torch.float32):
        super().__init__()
        self.graph = onnx.load(path).graph
        self.opset = onnx.load(path, load_external_data=False).opset_import[0].version
        self.weights = nn.ParameterDict()
        self.constants = {}
        for tensor in self.graph.initializer:
            self.keep(tensor.name, numpy_helper.to_array(tensor), dtype)
        for node in self.graph.node:
            if node.op_type == "Constant":
                self.keep(node.output[0], numpy_helper.to_array(attributes(node)["value"]), dtype)
        self.nodes = [node for node in self.graph.node if node.op_type != "Constant"]
        known = set(self.constants) | {t.name for t in self.graph.initializer}
        self.input = next(i.name for i in self.graph.input if i.name not in known
                          and len(i.type.tensor_type.shape.dim) == 4
                          and any(i.name in n.input for n in self.nodes))
        self.output = self.graph.output[0].name
        last = next(n for n in self.nodes if self.output in n.output)
        self.logits = last.input[0] if last.op_type in ("Softmax", "LogSoftmax") else self.output
        self.taps = nn.ModuleDict({key(o): nn.Identity() for n in self.nodes for o in n.output})
        self.values = {}

    def keep(self, name, array, dtype):
        if array.dtype.kind == "f":
            tensor = torch.from_numpy(np.array(array)).to(dtype)
            self.weights[key(name)] = nn.Parameter(tensor)
        else:
            self.constants[name] = array

    def layer(self, name):
        return self.taps[key(name)]

    def weight(self, name):
        return self.weights[key(name)]

    def bound(self, name):
        """A constant number; None where the name is empty."""
        if not name:
            return None
        return float(self.weights[key(name)].detach() if key(name) in self.weights
                     else self.constants[name])

    def forward(self, x):
        values = {self.input: x}

        def value(name):
            if name in values:
                return values[name]
            return self.weights[key(name)] if key(name) in self.weights else self.constants[name]

        for node in self.nodes:
            outputs = self.run(node, attributes(node), [value(n) if n else None for n in node.input])
            for name, output in zip(node.output, outputs):
                values[name] = self.taps[key(name)](output)
            if self.logits in node.output:
                break
        self.values = values
        logits = values[self.logits]
        return logits.reshape(logits.shape[0], -1)

    def run(self, node, a, x):
        op = node.op_type
        if op == "Conv":
            return [self.conv(a, x)]
        if op in ("MaxPool", "AveragePool"):
            return [pool(op, a, x[0])]
        simple = {
            "Relu": lambda: F.relu(x[0]),
            "Sigmoid": lambda: torch.sigmoid(x[0]),
            "LeakyRelu": lambda: F.leaky_relu(x[0], a.get("alpha", 0.01)),
            "HardSigmoid": lambda: torch.clamp(
                a.get("alpha", 0.2) * x[0] + a.get("beta", 0.5), 0, 1),
            "Add": lambda: x[0] + x[1],
            "Sub": lambda: x[0] - x[1],
            "Mul": lambda: x[0] * x[1],
            "Div": lambda: x[0] / x[1],
            "MatMul": lambda: x[0] @ x[1],
            "Concat": lambda: torch.cat(x, a["axis"]),
            "Identity": lambda: x[0],
            "Dropout": lambda: x[0],
            "Flatten": lambda: torch.flatten(x[0], a.get("axis", 1)),
            "Transpose": lambda: x[0].permute(*a["perm"]),
            "GlobalAveragePool": lambda: x[0].mean((2, 3), keepdim=True),
            "Softmax": lambda: F.softmax(x[0], a.get("axis", -1)),
        }
        if op in simple:
            return [simple[op]()]
        if op == "Clip":
            low, high = (x + [None, None])[1:3] if len(x) > 1 else (a.get("min"), a.get("max"))
            bound = lambda b: None if b is None else float(b.detach() if torch.is_tensor(b) else b)
            return [F.hardtanh(x[0], bound(low), bound(high))]
        if op == "BatchNormalization":
            scale, bias, mean, var = x[1:5]
            return [F.batch_norm(x[0], mean.detach(), var.detach(), scale, bias, False, 0.0, a.get("epsilon", 1e-5))]
        if op == "LRN":
            return [F.local_response_norm(x[0], a["size"], a.get("alpha", 1e-4),
                                          a.get("beta", 0.75), a.get("bias", 1.0))]
        if op == "Gemm":
            left = x[0].T if a.get("transA") else x[0]
            right = x[1].T if a.get("transB") else x[1]
            bias = a.get("beta", 1.0) * x[2] if len(x) > 2 else 0
            return [a.get("alpha", 1.0) * (left @ right) + bias]
        if op == "Reshape":
            shape = [x[0].shape[i] if d == 0 else int(d) for i, d in enumerate(x[1])]
            return [x[0].reshape(shape)]
        if op == "Squeeze":
            axes = a.get("axes") or (list(x[1]) if len(x) > 1 else None)
            return [x[0].squeeze(tuple(int(i) for i in axes)) if axes is not None else x[0].squeeze()]
        if op == "ReduceMean":
            axes = a.get("axes") or [int(i) for i in x[1]]
            return [x[0].mean(tuple(axes), keepdim=bool(a.get("keepdims", 1)))]
        if op == "Split":
            sizes = a.get("split") or [int(s) for s in x[1]]
            return torch.split(x[0], list(sizes), a.get("axis", 0))
        if op == "Slice":
            start, end = x[1], x[2]
            axes = x[3] if len(x) > 3 else range(len(start))
            steps = x[4] if len(x) > 4 else [1] * len(start)
            index = [slice(None)] * x[0].dim()
            for s, e, axis, step in zip(start, end, axes, steps):
                index[int(axis)] = slice(int(s), min(int(e), x[0].shape[int(axis)])
                                         if int(e) >= 0 else int(e), int(step))
            return [x[0][tuple(index)]]
        if op == "Pad":
            pads = [int(p) for p in (a.get("pads") or x[1])]
            rank = x[0].dim()
            flat = [p for axis in reversed(range(rank)) for p in (pads[axis], pads[axis + rank])]
            fill = float(x[2]) if len(x) > 2 and x[2] is not None else a.get("value", 0.0)
            return [F.pad(x[0], flat, value=fill)]
        raise NotImplementedError(f"{op} of node {node.name}")

    def conv(self, a, x):
        weight, bias = x[1], (x[2] if len(x) > 2 else None)
        strides, dilations = a.get("strides", [1, 1]), a.get("dilations", [1, 1])
        extent = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations)]
        data = F.pad(x[0], padding(a, x[0].shape[2:], extent, strides))
        return F.conv2d(data, weight, bias, strides, 0, dilations, a.get("group", 1))


def padding(a, size, extent, strides):
    """In F.pad's order: left, right, top, bottom."""
    auto = a.get("auto_pad", b"NOTSET")
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        result = []
        for n, k, s in zip(size, extent, strides):
            total = max((-(-n // s) - 1) * s + k - n, 0)
            small, large = total // 2, total - total // 2
            result.append((small, large) if auto == b"SAME_UPPER" else (large, small))
        (top, bottom), (left, right) = result
    else:
        top, left, bottom, right = a.get("pads", [0, 0, 0, 0])
    return [left, right, top, bottom]


def pool(op, a, x):
    kernel, strides = a["kernel_shape"], a.get("strides", [1, 1])
    left, right, top, bottom = padding(a, x.shape[2:], kernel, strides)
    ceil = bool(a.get("ceil_mode", 0))
    if op == "MaxPool":
        return F.max_pool2d(F.pad(x, [left, right, top, bottom], value=-torch.inf), kernel, strides,
                            ceil_mode=ceil)
    include = bool(a.get("count_include_pad", 0))
    padded = F.pad(x, [left, right, top, bottom])
    if include or not any((left, right, top, bottom)):
        return F.avg_pool2d(padded, kernel, strides, ceil_mode=ceil)
    ones = F.pad(torch.ones_like(x[:, :1]), [left, right, top, bottom])
    count = F.avg_pool2d(ones, kernel, strides, ceil_mode=ceil)
    return F.avg_pool2d(padded, kernel, strides, ceil_mode=ceil) / count
