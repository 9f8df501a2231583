"""Moves an input away from the kinks of a network, so that its gradient there can be compared.

A rectifier's derivative jumps at zero. Where the input of one lies so close to zero that rounding
decides its side, two correct float32 programs give different gradients. `moved` changes a few values of
an input, each by little, until every rectifier, clip and maximum pool keeps a distance of several times
float32's rounding error.
"""

import numpy as np
import torch
import torch.nn.functional as F

from torch_network import attributes, padding


# Distance to keep, in rounding errors: of a unit the root mean square of float32's error over its channel.
# Among a million units some are five of them off, and other processors add in other orders.
MARGIN = 8


def distances(network):
    """Signed distances to the kinks in the last run, a tensor for each kink of each node."""
    for node in network.nodes:
        if node.output[0] not in network.values or node.input[0] not in network.values:
            continue
        x, a = network.values[node.input[0]], attributes(node)
        if node.op_type in ("Relu", "LeakyRelu"):
            yield x
        elif node.op_type == "Clip":
            bounds = [network.bound(name) for name in node.input[1:3]] or [a.get("min"), a.get("max")]
            yield from (x - bound for bound in bounds if bound is not None)
        elif node.op_type == "HardSigmoid":
            slope, middle = a.get("alpha", 0.2), a.get("beta", 0.5)
            yield from (x + middle / slope, x - (1 - middle) / slope)
        elif node.op_type == "MaxPool":
            yield lead(x, a)


def lead(x, a):
    """By how much the largest number of each pooled window leads; infinite where it is there twice
    (as the zeros of rectifiers are, which rounding does not part)."""
    kernel, strides = a["kernel_shape"], a.get("strides", [1, 1])
    left, right, top, bottom = padding(a, x.shape[2:], kernel, strides)
    if a.get("ceil_mode", 0):
        right, bottom = right + strides[1] - 1, bottom + strides[0] - 1
    x = F.pad(x, [left, right, top, bottom], value=-torch.inf)
    windows = x.unfold(2, kernel[0], strides[0]).unfold(3, kernel[1], strides[1])
    first, second = windows.flatten(4).topk(2).values.unbind(-1)
    return torch.where(first == second, torch.inf, first - second)


def margins(exact, rounded):
    """The distance that each unit has to keep, one number a channel (a vector has one for all)."""
    for a, b in zip(exact, rounded):
        error = (a - b.double()).nan_to_num(0, 0, 0).square()
        within = tuple(range(2, a.dim())) or (1,)
        yield MARGIN * error.mean(within, keepdim=True).sqrt()


def shortfall(network, keep):
    """Over the units that are too close, the sum of what they lack, each up to 1; and their number.

    A distance of zero itself is far enough: a sum of zeros, which float32 computes exactly.
    """
    total, count = 0.0, 0
    for distance, margin in zip(distances(network), keep):
        near = (distance != 0) & (distance.abs() < margin)
        total = total + (1 - distance[near].abs() / margin.expand_as(distance)[near]).sum()
        count += int(near.sum())
    return total, count


def moved(exact, rounded, x, rounds=200):
    """`x` with a few values changed, so that all units keep their distance.

    `exact` is the network in float64, `rounded` the same in float32. Each round takes a step of Polyak's
    length along the values with the steepest gradient, one for each unit that is too close.
    """
    with torch.no_grad():
        rounded(x.float())
        in_float32 = list(distances(rounded))
        exact(x.double())
        keep = list(margins(distances(exact), in_float32))
        del in_float32
    places = np.zeros(0, np.int64)
    for _ in range(rounds):
        leaf = x.double().requires_grad_(True)
        exact(leaf)
        total, count = shortfall(exact, keep)
        if count == 0:
            return x
        gradient = torch.autograd.grad(total, leaf)[0].reshape(-1)
        places = np.union1d(places, gradient.abs().topk(count).indices.numpy())
        slope = gradient[places]
        step = torch.zeros_like(gradient)
        step[places] = slope * (1.5 * total.detach() / slope.square().sum())
        x = (x.double() - step.reshape(x.shape)).float()
        if not x.isfinite().all():
            raise RuntimeError(f"no step moves {count} units away from their kinks")
    raise RuntimeError(f"{count} units are still too close to their kinks")
