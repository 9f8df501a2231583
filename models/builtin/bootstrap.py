"""Step 3a (optional): a start for train.py that needs no gradients, in about a minute.

    python bootstrap.py --crops crops --teacher mobilenet-v3-small.onnx --out start.pt

Each inverted residual gets random expansions and filters; its projection is the ridge regression
from what they answer to the principal components of the teacher's tensors of about the same
depth. A residual block regresses what the blocks before it missed. The stem's filters are the
principal components of 7x7 patches, each with both signs, so that ReLU loses nothing of them.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from network import INPUT_SIZE, STAGES, InvertedResidual, Student
from teacher import SIZE, Teacher

# The teacher's tensors that each stage of the student imitates.
TARGETS = (
    ("conv11_out", "conv12_out"),
    ("add_26", "conv15_out", "mul_29"),
    ("add_73", "conv51_out", "add_104", "mul_107"),
    ("add_151", "mul_154"),
)
CELLS = (INPUT_SIZE // 4, INPUT_SIZE // 8, INPUT_SIZE // 16, INPUT_SIZE // 16)
BATCH = 64
CALIBRATION = 512
RIDGE = 1e-3


def teacher_tensors(teacher, pixels):
    """For each stage the tensors of TARGETS, resized to the stage's cells and joined."""
    large = F.interpolate(
        pixels.permute(0, 3, 1, 2).float(), (SIZE, SIZE), mode="bilinear", align_corners=False
    )
    answer = teacher.answer(large.permute(0, 2, 3, 1).round().byte().numpy())
    named = dict(zip(teacher.outputs, map(torch.from_numpy, answer), strict=False))
    joined = []
    for names, cells in zip(TARGETS, CELLS, strict=True):
        parts = [
            F.interpolate(
                named[n].reshape(len(pixels), -1, *named[n].shape[2:]), (cells, cells),
                mode="bilinear", align_corners=False, antialias=True,
            )
            for n in names
        ]
        joined.append(torch.cat(parts, 1))
    return joined


def components(sample, count):
    """Mean, and a map `[count, C]` to standardised and gently whitened principal components."""
    cells = sample.permute(0, 2, 3, 1).reshape(-1, sample.shape[1]).double()
    mean, deviation = cells.mean(0), cells.std(0) + 1e-4
    values, vectors = torch.linalg.eigh(torch.cov(((cells - mean) / deviation).T))
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    scale = values.clamp(min=1e-6) ** -0.25
    return mean.float(), ((vectors / deviation[:, None]) * scale).T.float()


def calibrate(norm, activations):
    """Set a batch norm's statistics to those of its input `[N, C, H, W]`."""
    norm.running_mean.copy_(activations.mean((0, 2, 3)))
    norm.running_var.copy_(activations.var((0, 2, 3)) + 1e-5)


def start_stem(stem, pixels):
    """Half of the filters are the leading components of the input's patches, half their negatives."""
    conv, norm = stem[0], stem[1]
    half = conv.out_channels // 2
    patches = F.unfold(pixels[:256], conv.kernel_size, stride=9).transpose(1, 2)
    patches = patches.reshape(-1, patches.shape[-1])
    _, vectors = torch.linalg.eigh(torch.cov(patches.T.double()))
    filters = vectors.flip(1)[:, :half].T.float().reshape(half, *conv.weight.shape[1:])
    conv.weight.copy_(torch.cat([filters, -filters]))
    calibrate(norm, conv(pixels[:CALIBRATION]))


def hidden(block, x):
    """What the projection of an inverted residual sees."""
    return block.layers[1](block.layers[0](x))


def start_block(block, inputs, targets):
    """Calibrate a block and fit its projection; returns its outputs and the share explained."""
    for number in (0, 1):
        conv, norm = block.layers[number][0], block.layers[number][1]
        x = inputs[:CALIBRATION]
        calibrate(norm, conv(x if number == 0 else block.layers[0](x)))
        norm.bias.normal_(0, 0.5)
    gram, cross, total = 0, 0, 0
    for start in range(0, len(inputs), BATCH):
        x, t = inputs[start : start + BATCH], targets[start : start + BATCH].float()
        miss = t - x if block.residual else t
        h = hidden(block, x).permute(0, 2, 3, 1).reshape(-1, block.layers[2][0].in_channels)
        h = torch.cat([h, torch.ones(len(h), 1)], 1)
        miss = miss.permute(0, 2, 3, 1).reshape(len(h), -1)
        gram, cross = gram + (h.T @ h).double(), cross + (h.T @ miss).double()
        total += t.square().sum().item()
    penalty = RIDGE * torch.diagonal(gram).mean() * torch.eye(len(gram))
    solution = torch.linalg.solve(gram + penalty, cross).float()
    conv, norm = block.layers[2][0], block.layers[2][1]
    conv.weight.copy_(solution[:-1].T[:, :, None, None])
    projected = conv(hidden(block, inputs[:CALIBRATION]))
    calibrate(norm, projected)
    norm.weight.copy_(torch.sqrt(norm.running_var + norm.eps))
    norm.bias.copy_(solution[-1] + norm.running_mean)
    outputs = torch.cat([block(inputs[s : s + BATCH]) for s in range(0, len(inputs), BATCH)])
    left = (outputs - targets.float()).square().sum().item()
    return outputs, 1 - left / total


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--crops", type=Path, required=True)
    parser.add_argument("--kind", default="photographs")
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--count", type=int, default=3072, help="crops to regress on")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_grad_enabled(False)
    shards = sorted(p.parent for p in arguments.crops.glob(f"{arguments.kind}*/pixels.npy"))
    pixels = np.concatenate([np.load(s / "pixels.npy") for s in shards if s.suffix != ".part"])
    pixels = torch.from_numpy(pixels[: arguments.count])
    teacher = Teacher(arguments.teacher, extra=[n for t in TARGETS for n in t if n != "mul_154"])

    batches = [pixels[s : s + BATCH] for s in range(0, len(pixels), BATCH)]
    first = [torch.cat(parts) for parts in zip(*(teacher_tensors(teacher, b) for b in batches[:4]))]
    maps = [components(t, stage[1]) for t, stage in zip(first, STAGES, strict=True)]
    reduced = [
        [
            torch.einsum("kc,nchw->nkhw", m, t - mean[:, None, None]).half()
            for t, (mean, m) in zip(teacher_tensors(teacher, b), maps, strict=True)
        ]
        for b in batches
    ]
    targets = [torch.cat(parts) for parts in zip(*reduced)]
    print("teacher has answered", flush=True)

    student = Student().eval()
    x = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    start_stem(student.blocks[0], x)
    x = torch.cat([student.blocks[0](x[s : s + BATCH]) for s in range(0, len(x), BATCH)])
    stage, repeat = 0, 0
    for block in student.blocks[1:]:
        if not isinstance(block, InvertedResidual):
            calibrate(block[1], block[0](x[:CALIBRATION]))
            break
        x, explained = start_block(block, x, targets[stage])
        print(f"stage {stage + 1} block {repeat + 1}: {explained:.3f} explained", flush=True)
        repeat += 1
        if repeat == STAGES[stage][2]:
            stage, repeat = stage + 1, 0
    torch.save({"average": student.state_dict()}, arguments.out)


if __name__ == "__main__":
    main()
