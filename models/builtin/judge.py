"""Step 5: five-fold accuracy of simple heads on a backbone's frozen embedding.

    python judge.py builtin.onnx --assets ASSETS

Photographs are resized to a shorter side of round(S / 0.875) (Pillow, bilinear) and cut to the
central SxS. Folds are stratified with a fixed seed. Features are standardised on each training
part. `ridge` is one-vs-rest with its strength chosen by leave-one-out on the training part.
"""

import argparse
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SETS = ("hymenoptera", "trashnet")
HEADS = {
    "ridge": lambda: RidgeClassifierCV(np.logspace(1, 5, 9)),
    "logistic": lambda: LogisticRegression(C=0.01, max_iter=500),
    "lda": lambda: LinearDiscriminantAnalysis("lsqr", "auto"),
}


def load(path, size):
    """Central crop of a photograph, uint8 [size, size, 3]."""
    image = Image.open(path).convert("RGB")
    scale = round(size / 0.875) / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def pictures(folder, size, cache):
    """Pixels [n, size, size, 3] and class numbers [n] of a folder of class folders."""
    stored = cache / f"{folder.name}-{size}.npz" if cache else None
    if stored and stored.exists():
        data = np.load(stored)
        return data["pixels"], data["labels"]
    classes = sorted(p for p in folder.iterdir() if p.is_dir())
    files = [(p, label) for label, c in enumerate(classes) for p in sorted(c.iterdir())]
    pixels = np.stack([load(path, size) for path, _ in files])
    labels = np.array([label for _, label in files])
    if stored:
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(stored, pixels=pixels, labels=labels)
    return pixels, labels


def embed(session, pixels):
    """Embeddings [n, width] of uint8 pixels in the built-in backbone's input convention."""
    x = pixels.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    return np.concatenate([session.run(None, {"input": row[None]})[0].reshape(1, -1) for row in x])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="keep the resized photographs here")
    parser.add_argument("--heads", nargs="*", default=list(HEADS), choices=list(HEADS))
    arguments = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(arguments.model, options)
    size = session.get_inputs()[0].shape[-1]
    folds = StratifiedKFold(5, shuffle=True, random_state=1)
    for name in SETS:
        pixels, labels = pictures(arguments.assets / "datasets" / name, size, arguments.cache)
        features = embed(session, pixels)
        for head in arguments.heads:
            pipeline = make_pipeline(StandardScaler(), HEADS[head]())
            scores = cross_val_score(pipeline, features, labels, cv=folds)
            spread = " ".join(f"{score:.3f}" for score in scores)
            print(f"{name:12} {head:9} {scores.mean():.3f}   folds {spread}", flush=True)


if __name__ == "__main__":
    main()
