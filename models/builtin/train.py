"""Step 3: distil the teacher into the student.

    python train.py --crops crops --teacher mobilenet-v3-small.onnx --out run --minutes 60

The loss has three parts, all on the same crop:
* smooth L1 between the teacher's last feature map (96 principal directions, 7x7 cells) and a 1x1
  convolution of the student's, so that every cell teaches, not only the mean;
* smooth L1 between the teacher's standardised embedding and a linear map of the student's;
* the divergence between the softened answers that the teacher's own classifier gives for the two
  embeddings (its weights stay fixed), which weighs errors by what they change.
The linear maps and the classifier serve the training only and are thrown away.

The learning rate falls linearly to zero over `--minutes` of running time, whatever the machine
achieves in them. Weights are averaged exponentially. Every few minutes `OUT/checkpoint.pt` is
replaced; the same command goes on from it. `OUT/curve.csv` gets a line every 50 steps.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from network import EMBEDDING_WIDTH, Student
from teacher import classifier

BATCH = 32
LEARNING_RATE = 2e-3
WARM_UP_STEPS = 100
WEIGHT_DECAY = 0.02
AVERAGE_DECAY = 0.998
TEMPERATURE = 2.0
CHECKPOINT_SECONDS = 150


class Crops:
    """The shards below a folder, mapped into memory; `kind` is a prefix of the shards' names."""

    def __init__(self, folder, kind):
        self.folder, self.kind = folder, kind
        self.refresh()

    def refresh(self):
        """Look for shards again: they may still be being written."""
        names = sorted(p.parent for p in self.folder.glob(f"{self.kind}*/pixels.npy"))
        names = [name for name in names if name.suffix != ".part"]
        if not names:
            raise SystemExit(f"{self.folder}: no finished shards yet; run crops.py first")
        load = lambda name, part: np.load(name / f"{part}.npy", mmap_mode="r")  # noqa: E731
        self.shards = [[load(n, p) for p in ("pixels", "embedding", "map")] for n in names]
        sizes = [len(shard[0]) for shard in self.shards]
        self.index = np.array([(s, i) for s, size in enumerate(sizes) for i in range(size)])

    def batches(self, rng):
        """One epoch of batches (pixels, embedding, map) in random order."""
        self.refresh()
        for rows in np.array_split(rng.permutation(self.index), max(1, len(self.index) // BATCH)):
            parts = [np.stack([self.shards[s][part][i] for s, i in rows]) for part in range(3)]
            yield [torch.from_numpy(part) for part in parts]

    def statistics(self):
        """Mean and deviation of the embedding, deviation of the map, from the first shards."""
        embedding = np.concatenate([s[1] for s in self.shards[:4]]).astype("f4")
        maps = np.concatenate([s[2] for s in self.shards[:2]]).astype("f4")
        deviation = np.sqrt(embedding.var(0) + 1e-4)
        return [torch.from_numpy(a) for a in (embedding.mean(0), deviation, maps.std((0, 2, 3)))]


class Distillation(nn.Module):
    """The student with the parts that are only needed while it learns."""

    def __init__(self, statistics, weight, bias, map_channels):
        super().__init__()
        self.student = Student()
        self.to_map = nn.Conv2d(EMBEDDING_WIDTH, map_channels, 1)
        self.to_embedding = nn.Linear(EMBEDDING_WIDTH, weight.shape[1])
        for name, value in zip(("mean", "deviation", "map_deviation"), statistics, strict=True):
            self.register_buffer(name, value)
        self.register_buffer("weight", torch.from_numpy(weight))
        self.register_buffer("bias", torch.from_numpy(bias))

    def classify(self, embedding):
        """Logarithms of the softened probabilities that the teacher's classifier answers."""
        return F.log_softmax(F.linear(embedding, self.weight, self.bias) / TEMPERATURE, 1)

    def forward(self, pixels, embedding, maps):
        """The three losses, each a mean over the batch."""
        features = self.student.features(pixels)
        cells = self.to_map(F.adaptive_avg_pool2d(features, maps.shape[-1]))
        predicted = self.to_embedding(features.mean((2, 3)))
        # The square root keeps large directions in the lead without silencing the small ones.
        scale = self.map_deviation.sqrt()[:, None, None]
        map_loss = F.smooth_l1_loss(cells, maps / scale)
        embedding_loss = F.smooth_l1_loss(predicted, (embedding - self.mean) / self.deviation)
        answer = self.classify(predicted * self.deviation + self.mean)
        divergence = F.kl_div(
            answer, self.classify(embedding), reduction="batchmean", log_target=True
        )
        return map_loss, embedding_loss, divergence


def augment(pixels, maps, generator):
    """Input tensor from uint8 pixels: mirrored at random with its map, light and colour varied."""
    x = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    x[mirrored] = x[mirrored].flip(-1)
    maps = torch.where(mirrored[:, None, None, None], maps.flip(-1), maps)
    gain = 1 + 0.2 * (torch.rand(len(x), 3, 1, 1, generator=generator) - 0.5)
    contrast = 1 + 0.4 * (torch.rand(len(x), 1, 1, 1, generator=generator) - 0.5)
    offset = 0.2 * (torch.rand(len(x), 1, 1, 1, generator=generator) - 0.5)
    x = (x * gain * contrast + offset).clamp(-1, 1)
    return x.to(memory_format=torch.channels_last), maps


def optimiser(model):
    """AdamW; normalisation parameters and biases are not decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, LEARNING_RATE, betas=(0.9, 0.99))


def average(mean, model, step):
    """Move the averaged weights towards the model's; faster in the beginning."""
    decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
    with torch.no_grad():
        for name, value in model.student.state_dict().items():
            if value.dtype.is_floating_point:
                mean[name].lerp_(value, 1 - decay)
            else:
                mean[name].copy_(value)


def save(path, state):
    """Replace the checkpoint by a complete new one."""
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    partial.rename(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--crops", type=Path, required=True)
    parser.add_argument("--kind", default="photographs", help="prefix of the shards to learn from")
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--initial", type=Path, help="student weights to start from")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)

    crops = Crops(arguments.crops, arguments.kind)
    model = Distillation(
        crops.statistics(), *classifier(arguments.teacher), crops.shards[0][2].shape[1]
    )
    model.to(memory_format=torch.channels_last)
    if arguments.initial:
        model.student.load_state_dict(torch.load(arguments.initial)["average"])
    adam = optimiser(model)
    mean = {name: value.clone() for name, value in model.student.state_dict().items()}
    step, spent = 0, 0.0
    path = arguments.out / "checkpoint.pt"
    if path.exists():
        state = torch.load(path)
        model.load_state_dict(state["model"])
        adam.load_state_dict(state["adam"])
        mean, step, spent = state["average"], state["step"], state["spent"]

    generator = torch.Generator().manual_seed(arguments.seed + step)
    rng = np.random.default_rng((arguments.seed, step))
    budget = arguments.minutes * 60
    started, saved = time.monotonic() - spent, time.monotonic()
    curve = csv.writer((arguments.out / "curve.csv").open("a", buffering=1))
    losses = []
    while spent < budget:
        for pixels, embedding, maps in crops.batches(rng):
            spent = time.monotonic() - started
            rate = LEARNING_RATE * min(1, (step + 1) / WARM_UP_STEPS) * max(0, 1 - spent / budget)
            for group in adam.param_groups:
                group["lr"] = rate
            x, maps = augment(pixels, maps.float(), generator)
            parts = model(x, embedding.float(), maps)
            adam.zero_grad()
            (parts[0] + 2 * parts[1] + parts[2]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            adam.step()
            step += 1
            average(mean, model, step)
            losses.append([part.item() for part in parts])
            if step % 50 == 0:
                row = [step, round(spent), round(time.process_time()), len(crops.index)]
                curve.writerow(row + [f"{v:.4f}" for v in np.mean(losses, 0)] + [f"{rate:.6f}"])
                losses = []
            if time.monotonic() - saved > CHECKPOINT_SECONDS or spent >= budget:
                saved = time.monotonic()
                save(path, {
                    "model": model.state_dict(), "adam": adam.state_dict(), "average": mean,
                    "step": step, "spent": spent,
                })
            if spent >= budget:
                break


if __name__ == "__main__":
    main()
