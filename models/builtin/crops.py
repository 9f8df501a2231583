"""Step 2: cut crops out of the photographs and write down what the teacher says of each.

    python crops.py --photographs photographs --teacher mobilenet-v3-small.onnx \\
        --judging ASSETS/datasets ASSETS/images --out crops --seed 1

Each shard is a folder of .npy files that train.py maps into memory:
`pixels` uint8 [n, 128, 128, 3], `embedding` float16 [n, 1024], `map` float16 [n, 96, 7, 7], the
teacher's last feature map along its first 96 principal directions (`OUT/basis.npz`, found from
the first shard). A shard that exists is skipped, so an interrupted run is simply started again.

Photographs that look like one of the judging pictures are left out (difference hash).
"""

import argparse
import io
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

import procedural
from network import INPUT_SIZE
from teacher import SIZE, Teacher

SHARD = 1024
BATCH = 16
COMPONENTS = 96
SMALLEST_SIDE = 90
LARGEST_HASH_DISTANCE = 5
ImageFile.LOAD_TRUNCATED_IMAGES = True


def open_reduced(path):
    """Decode a photograph as RGB, by the JPEG decoder's own halving where it is large."""
    image = Image.open(io.BytesIO(path.read_bytes()))
    image.draft("RGB", (2 * SIZE, 2 * SIZE))
    return image.convert("RGB")


def difference_hash(image):
    """64 bits: whether each cell of an 8x9 grey thumbnail is darker than its right neighbour."""
    cells = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return np.packbits(cells[:, 1:] > cells[:, :-1])


def judging_hashes(folders):
    """Hashes `[n, 8]` of all pictures below the folders, and of their mirror images."""
    images = [
        open_reduced(path)
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in (".jpg", ".jpeg", ".png")
    ]
    mirrored = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images]
    return np.array([difference_hash(i) for i in images + mirrored], np.uint8).reshape(-1, 8)


def random_box(rng, width, height):
    """A random crop: 0.25 to 1 of the area, aspect 3:4 to 4:3, inside the picture."""
    area = width * height * rng.uniform(0.25, 1)
    aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    w, h = min(width, (area * aspect) ** 0.5), min(height, (area / aspect) ** 0.5)
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    return x, y, x + w, y + h


def photograph_crops(paths, rng, hashes):
    """Yields the student's and the teacher's view of one random crop of each usable photograph."""
    for path in paths:
        try:
            image = open_reduced(path)
        except (OSError, ValueError, Image.DecompressionBombError):
            continue
        if min(image.size) < SMALLEST_SIDE:
            continue
        if len(hashes):
            distance = np.bitwise_count(hashes ^ difference_hash(image)).sum(1).min()
            if distance <= LARGEST_HASH_DISTANCE:
                continue
        yield views(image, random_box(rng, *image.size))


def procedural_crops(count, seed):
    """The same for `count` procedural pictures."""
    for index in range(count):
        image = Image.fromarray(procedural.picture(seed + index, SIZE))
        yield views(image, (0, 0, SIZE, SIZE))


def views(image, box):
    """The same crop at the student's and at the teacher's size, uint8 [S, S, 3] each."""
    return tuple(
        np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
        for size in (INPUT_SIZE, SIZE)
    )


def principal_directions(maps):
    """Mean `[C]` and first directions `[COMPONENTS, C]` of the maps' cells."""
    cells = maps.transpose(0, 2, 3, 1).reshape(-1, maps.shape[1]).astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(cells.T))
    return cells.mean(0), vectors[:, ::-1][:, :COMPONENTS].T


def write_shard(folder, crops, teacher, basis_path):
    """Ask the teacher about the crops and write one shard; the folder appears last."""
    pixels = np.stack([student for student, _ in crops])
    maps, embeddings = [], []
    for start in range(0, len(crops), BATCH):
        batch = np.stack([view for _, view in crops[start : start + BATCH]])
        answer = teacher.answer(batch)
        maps.append(answer[0])
        embeddings.append(answer[1])
    maps = np.concatenate(maps)
    if not basis_path.exists():
        mean, directions = principal_directions(maps)
        np.savez(basis_path, mean=mean.astype("f4"), directions=directions.astype("f4"))
    basis = np.load(basis_path)
    centred = maps.reshape(len(maps), maps.shape[1], -1) - basis["mean"][None, :, None]
    reduced = (basis["directions"] @ centred).reshape(len(maps), COMPONENTS, *maps.shape[2:])
    partial = folder.with_suffix(".part")
    partial.mkdir(exist_ok=True)
    np.save(partial / "pixels.npy", pixels)
    np.save(partial / "embedding.npy", np.concatenate(embeddings).astype("f2"))
    np.save(partial / "map.npy", reduced.astype("f2"))
    partial.rename(folder)


def batched(items, size):
    """Lists of up to `size` consecutive items."""
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--procedural", type=int, default=0, help="this many pictures instead")
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--judging", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    teacher = Teacher(arguments.teacher)
    basis = arguments.out / "basis.npz"
    if arguments.procedural:
        starts = range(0, arguments.procedural, SHARD)
        groups = [(s, min(SHARD, arguments.procedural - s)) for s in starts]
    else:
        paths = sorted(arguments.photographs.rglob("*.jpg"))
        random.Random(arguments.seed).shuffle(paths)
        groups = list(batched(paths, SHARD))
        known = arguments.out / "judging.npy"
        if not known.exists():
            np.save(known, judging_hashes(arguments.judging))
        hashes = np.load(known)
    for number, group in enumerate(groups):
        kind = "procedural" if arguments.procedural else "photographs"
        folder = arguments.out / f"{kind}-{arguments.seed:02}-{number:04}"
        if folder.exists():
            continue
        if arguments.procedural:
            crops = list(procedural_crops(group[1], arguments.seed * 1_000_000 + group[0]))
        else:
            rng = np.random.default_rng((arguments.seed, number))
            crops = list(photograph_crops(group, rng, hashes))
        write_shard(folder, crops, teacher, basis)
        print(f"{folder.name}: {len(crops)} crops", flush=True)


if __name__ == "__main__":
    main()
