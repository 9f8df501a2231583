"""Makes conventions.json: PyTorch's gradients where a function has no one derivative.

    python tests/reference/conventions.py

Each case is the gradient of the sum of a function's values by its input, in float64, at inputs on ties,
kinks and bounds. `null` stands for NaN. tests/gradients/conventions.rs has the same functions as ONNX
nodes, and docs/gradients.md the conventions.
"""

import json
import math
import pathlib

import torch
import torch.nn.functional as F

FIXTURE = pathlib.Path(__file__).parent / "conventions.json"

ONES = [1.0] * 9
# Name: shape of the input, its values, the function.
CASES = {
    "relu": ([1, 1, 1, 3], [-1, 0, 2], F.relu),
    "clip": ([1, 1, 1, 5], [-1, 0, 3, 6, 7], lambda x: F.hardtanh(x, 0, 6)),
    "leaky relu": ([1, 1, 1, 3], [-1, 0, 2], F.leaky_relu),
    "hard swish": ([1, 1, 1, 5], [-4, -3, 0, 3, 4], F.hardswish),
    "max of two": ([1, 2, 1, 3], [1, 1, 3, 2, 1, 0], lambda x: torch.maximum(x[:, :1], x[:, 1:])),
    "min of two": ([1, 2, 1, 3], [1, 1, 3, 2, 1, 0], lambda x: torch.minimum(x[:, :1], x[:, 1:])),
    "max pool": ([1, 1, 2, 2], [5, 5, 5, 5], lambda x: F.max_pool2d(x, 2)),
    "max pool overlapping": ([1, 1, 1, 4], [1, 4, 4, 2], lambda x: F.max_pool2d(x, (1, 3), stride=1)),
    "reduce max": ([1, 1, 2, 4], [1, 3, 3, 3, 0, 2, 2, 1], lambda x: torch.amax(x, 3)),
    "reduce min": ([1, 1, 2, 4], [1, 1, 3, 4, 0, 2, 2, 1], lambda x: torch.amin(x, 3)),
    "abs": ([1, 1, 1, 3], [-2, 0, 2], torch.abs),
    "sqrt": ([1, 1, 1, 2], [0, 4], torch.sqrt),
    "sqrt unused at zero": ([1, 1, 1, 2], [0, 4], lambda x: torch.sqrt(x) * torch.tensor([0.0, 1.0])),
    "average pool": ([1, 1, 3, 3], ONES, lambda x: F.avg_pool2d(x, 2, 2, 1, count_include_pad=False)),
    "average pool with padding": ([1, 1, 3, 3], ONES, lambda x: F.avg_pool2d(x, 2, 2, 1)),
}


def number(value):
    if math.isnan(value):
        return None
    return "inf" if math.isinf(value) else value


def main():
    result = {"torch": torch.__version__, "cases": {}}
    for name, (shape, values, function) in CASES.items():
        x = torch.tensor(values, dtype=torch.float64).reshape(shape).requires_grad_()
        function(x).sum().backward()
        gradient = [number(value) for value in x.grad.reshape(-1).tolist()]
        result["cases"][name] = {"shape": shape, "input": x.reshape(-1).tolist(), "gradient": gradient}
    FIXTURE.write_text(json.dumps(result, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
