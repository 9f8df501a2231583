#!/usr/bin/env python3
"""Accuracy of graftd on the 501 ImageNet photographs of the assets, beside onnxruntime.

Two questions for every ImageNet network in `models.toml`:

  same tensor   both programs get the same square pixels (cropped here, written as PNG): is the top-1
                the same on every photograph?
  from files    graftd decodes and resizes the JPEG itself: how far are its top-1 and top-5 counts from
                those that `models.toml` records, and how often is the top-1 that of onnxruntime behind
                Pillow?

    python3 -m venv .venv && .venv/bin/pip install -r tests/reference/requirements.txt
    .venv/bin/python tests/reference/accuracy.py --graftd target/release/graftd

onnxruntime's answers are kept in --out; delete the folder to compute them again.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import tomllib

import numpy as np
import onnxruntime
from PIL import Image

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
CROP = 0.875  # the square is this share of the shorter side
SLACK_IMAGES = 3
SAME_TOP1_FROM_FILES = 0.98


def assets_folder():
    """$GRAFTD_ASSETS, else ../shared/assets beside the repository."""
    return pathlib.Path(os.environ.get("GRAFTD_ASSETS", REPOSITORY / "../shared/assets"))


def photographs(assets):
    """The photographs in order of their class, and the class of each."""
    synsets = (assets / "images/imagenet_synset.txt").read_text().splitlines()
    classes = {line.split()[0]: index for index, line in enumerate(synsets)}
    files = sorted((assets / "images/imagenet").glob("*.jpg"))
    return files, np.array([classes[file.name.split("_")[0]] for file in files])


def cropped(file, size):
    """Shorter side to round(size / 0.875), bilinear with antialiasing, centre crop: RGB bytes."""
    picture = Image.open(file).convert("RGB")
    ratio = round(size / CROP) / min(picture.size)
    picture = picture.resize([round(side * ratio) for side in picture.size], Image.BILINEAR)
    left, top = ((side - size) // 2 for side in picture.size)
    return picture.crop((left, top, left + size, top + size))


def number(text):
    """`1/127.5`, as models.toml writes scales, to a float."""
    numerator, _, denominator = str(text).partition("/")
    return float(numerator) / float(denominator or 1)


def reference_logits(model, path, squares):
    """onnxruntime's logits for pictures of the network's own size, one row a picture."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    scale, mean, std = np.float32(number(model["scale"])), model["mean"], model["std"]
    rows = []
    for file in squares:
        pixels = np.asarray(Image.open(file), np.float32)
        if model["channels"] == "bgr":
            pixels = pixels[..., ::-1]
        tensor = (pixels * scale - np.float32(mean)) / np.float32(std)
        tensor = np.ascontiguousarray(tensor.transpose(2, 0, 1)[None])
        rows.append(session.run(None, {session.get_inputs()[0].name: tensor})[0].reshape(-1))
    return np.stack(rows)


def graftd_top5(graftd, state, backbone, resize, files):
    """graftd's five best classes for each file, read from its JSON."""
    command = [graftd, "predict", *map(str, files), "--backbone", backbone, "--resize", resize]
    command += ["--json", "--state-dir", state]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return np.array([[p["index"] for p in line["predictions"]] for line in lines])


def compare(model, assets, files, classes, out, graftd, state):
    """One row of the table and its verdict."""
    id, size = model["id"], model["input_size"]
    path = assets / model["file"]
    squares = [out / f"{size}" / f"{file.stem}.png" for file in files]
    squares[0].parent.mkdir(parents=True, exist_ok=True)
    for file, square in zip(files, squares):
        if not square.exists():
            cropped(file, size).save(square)
    kept = out / f"{id}.{model['sha256'][:12]}.npy"
    if not kept.exists():
        np.save(kept, reference_logits(model, path, squares))
    reference = np.load(kept).argmax(axis=1)

    command = [graftd, "models", "add", str(path), "--id", id, "--preset", "unit"]
    command += ["--scale", str(number(model["scale"])), "--channels", model["channels"]]
    command += ["--mean", ",".join(map(str, model["mean"]))]
    command += ["--std", ",".join(map(str, model["std"])), "--state-dir", state]
    subprocess.run(command, check=True, capture_output=True, text=True)

    same_tensor = int((graftd_top5(graftd, state, id, "squash", squares)[:, 0] == reference).sum())
    answers = graftd_top5(graftd, state, id, "crop", files)
    same_from_files = float((answers[:, 0] == reference).mean())
    top1 = int((answers[:, 0] == classes).sum())
    top5 = int((answers == classes[:, None]).any(axis=1).sum())
    expected1, expected5 = (round(model[key] * len(files)) for key in ("top1", "top5"))
    passed = (
        same_tensor == len(files)
        and same_from_files >= SAME_TOP1_FROM_FILES
        and abs(top1 - expected1) <= SLACK_IMAGES
        and abs(top5 - expected5) <= SLACK_IMAGES
    )
    cells = [id, f"{same_tensor} of {len(files)}", f"{same_from_files:.1%}"]
    cells += [f"{top1} ({top1 - expected1:+d})", f"{top5} ({top5 - expected5:+d})"]
    return cells + ["yes" if passed else "**no**"], passed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graftd", default="target/release/graftd")
    parser.add_argument("--out", type=pathlib.Path, default=REPOSITORY / "target/accuracy")
    parser.add_argument("--only", nargs="*", help="ids of the networks to run")
    arguments = parser.parse_args()
    assets = assets_folder()
    models = tomllib.loads((assets / "models.toml").read_text())["model"]
    models = [m for m in models if m["labels"] == "imagenet" and not m["id"].endswith("int8")]
    files, classes = photographs(assets)

    header = ["network", "same top-1, same tensor", "same top-1, from files"]
    header += ["top-1 (against models.toml)", "top-5", "passed"]
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    all_passed = True
    with tempfile.TemporaryDirectory() as state:
        for model in models:
            if arguments.only and model["id"] not in arguments.only:
                continue
            cells, passed = compare(
                model, assets, files, classes, arguments.out, arguments.graftd, state
            )
            all_passed &= passed
            print("| " + " | ".join(cells) + " |", flush=True)
    return 0 if all_passed else 1


if __name__ == "__main__":
    sys.exit(main())
