#!/usr/bin/env python3
"""What graftd learns, beside scikit-learn, on the data sets of the assets with mobilenet-v2.

  accuracy   onnxruntime computes the embeddings; scikit-learn's five classifiers and `graftd train`
             are judged on the same stratified folds (--folds-file), mean over --seeds seeds. The
             support vector machine stands there three times: as it comes, and tuned for these data
             sets on embeddings of length 1 and on their square roots
  unknowns   a trashnet head flags which share of hymenoptera at 5 % false alarms; and with one class
             left out of trashnet, how well its novelty tells that class from the others (AUROC), and
             how many photographs of the others, which the head was not shown either, it calls unknown
  export     the ONNX file that graftd writes, run by onnxruntime, gives the head's probabilities
  speed      softmax regression to scikit-learn's objective: softmax_speed.py

    .venv/bin/python tests/reference/train_compare.py --graftd target/release/graftd

Embeddings and results are kept in --out; delete the folder to compute them again.
"""

import argparse
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import tomllib

import numpy as np
import onnx
import onnxruntime
from PIL import Image, ImageOps
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler
from sklearn.svm import SVC

import softmax_speed

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BACKBONE = "mobilenet-v2"
DATASETS = ["hymenoptera", "trashnet"]
FOLDS = 5
SLACK = 0.005  # graftd may be this much below the best of the five
LEAST_FLAGGED = 0.95
LEAST_AREA = 0.70
FALSE_ALARMS = 0.05  # as graftd is asked for them
# The threshold is set on a hundred photographs or two, so on others the rate differs by chance, and a
# little because it was set by models on fewer samples: at most twice what was asked for.
MOST_FALSE_ALARMS = 2 * FALSE_ALARMS

SQUARE_ROOTS = FunctionTransformer(lambda x: np.sqrt(np.maximum(x, 0)))
CLASSIFIERS = {
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    "lda": lambda: LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
    "svm": lambda: make_pipeline(StandardScaler(), SVC()),
    "svm, unit length, C = 10": lambda: make_pipeline(Normalizer(), SVC(C=10)),
    "svm, square roots, C = 10": lambda: make_pipeline(SQUARE_ROOTS, Normalizer(), SVC(C=10)),
    "knn": lambda: make_pipeline(StandardScaler(), KNeighborsClassifier()),
    "centroid": lambda: make_pipeline(StandardScaler(), NearestCentroid()),
}


def assets_folder():
    """$GRAFTD_ASSETS, else ../shared/assets beside the repository."""
    return pathlib.Path(os.environ.get("GRAFTD_ASSETS", REPOSITORY / "../shared/assets"))


class Backbone:
    """mobilenet-v2 in onnxruntime, with its embedding as a further output."""

    def __init__(self, assets):
        models = tomllib.loads((assets / "models.toml").read_text())["model"]
        self.entry = next(model for model in models if model["id"] == BACKBONE)
        self.file = assets / self.entry["file"]
        model = onnx.load(self.file)
        last = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul")][-1]
        self.embedding = last.input[0]
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(self.embedding))
        self.session = onnxruntime.InferenceSession(model.SerializeToString())

    def tensor(self, file):
        """Shorter side to size / 0.875, centre crop, normalised, NCHW."""
        size = self.entry["input_size"]
        picture = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
        ratio = round(size / 0.875) / min(picture.size)
        picture = picture.resize([round(side * ratio) for side in picture.size], Image.BILINEAR)
        left, top = ((side - size) // 2 for side in picture.size)
        pixels = np.asarray(picture.crop((left, top, left + size, top + size)), np.float32) / 255
        pixels = (pixels - np.float32(self.entry["mean"])) / np.float32(self.entry["std"])
        return pixels.transpose(2, 0, 1)[None].astype(np.float32)

    def run(self, session, output, tensor):
        return session.run([output], {session.get_inputs()[0].name: tensor})[0].reshape(-1)

    def embed(self, file):
        return self.run(self.session, self.embedding, self.tensor(file))


def dataset(assets, name):
    """Files relative to the data set's folder, and their classes."""
    root = assets / "datasets" / name
    files = sorted(root.glob("*/*.jpg"))
    classes = sorted({file.parent.name for file in files})
    return root, files, np.array([classes.index(file.parent.name) for file in files])


def embeddings(backbone, files, cache):
    if not cache.exists():
        np.save(cache, np.stack([backbone.embed(file) for file in files]))
    return np.load(cache)


def graftd(arguments, *command):
    line = [str(arguments.graftd), "--state-dir", str(arguments.out / "state"), *map(str, command)]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout


def install(arguments, backbone):
    if (arguments.out / "state/backbones" / BACKBONE).exists():
        return
    graftd(arguments, "models", "add", backbone.file, "--id", BACKBONE, "--preset", "imagenet")


def accuracy(arguments, assets, backbone):
    good = True
    for name in DATASETS:
        root, files, y = dataset(assets, name)
        x = embeddings(backbone, files, arguments.out / f"{name}.npy")
        table = {classifier: [] for classifier in CLASSIFIERS} | {"graftd": []}
        kinds = []
        for seed in range(arguments.seeds):
            split = list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(x, y))
            folds = {}
            for fold, (_, held_out) in enumerate(split):
                folds |= {str(files[i].relative_to(root)): fold for i in held_out}
            folds_file = arguments.out / f"{name}-{seed}.json"
            folds_file.write_text(json.dumps(folds))
            for classifier, make in CLASSIFIERS.items():
                scores = [make().fit(x[a], y[a]).score(x[b], y[b]) for a, b in split]
                table[classifier].append(np.mean(scores))
            command = ["train", root, "--backbone", BACKBONE, "--folds-file", folds_file, "--json"]
            result = json.loads(graftd(arguments, *command))
            table["graftd"].append(result["accuracy"])
            kinds.append(result["kind"])
            print(f"{name} seed {seed}: graftd {result['accuracy']:.4f} ({result['kind']})", flush=True)
        print(f"\n{name}, mean accuracy over {arguments.seeds} x {FOLDS} folds")
        for classifier, scores in table.items():
            print(f"  {classifier:26} {np.mean(scores):.4f}")
        mean = {classifier: np.mean(scores) for classifier, scores in table.items()}
        tuned = [mean[classifier] for classifier in CLASSIFIERS if "C =" in classifier]
        plain = [mean[classifier] for classifier in CLASSIFIERS if "C =" not in classifier]
        ahead, ahead_of_tuned = mean["graftd"] - max(plain), mean["graftd"] - max(tuned)
        good &= ahead >= -SLACK
        print(f"  graftd is {100 * ahead:+.2f} points from the best of the five as they come")
        print(f"  and {100 * ahead_of_tuned:+.2f} points from the better tuned support vector machine\n")
    return good


def unknowns(arguments, assets):
    head = arguments.out / "trashnet.safetensors"
    datasets = assets / "datasets"
    command = ["train", datasets / "trashnet", "--backbone", BACKBONE, "--folds", 2, "--json"]
    graftd(arguments, *command, "--save", head, "--onnx", arguments.out / "trashnet.onnx")
    command = ["evaluate", datasets / "hymenoptera", "--head", head, "--json"]
    flagged = json.loads(graftd(arguments, *command))["unknown"]
    print(f"a trashnet head at 5 % false alarms calls {100 * flagged:.1f} % of hymenoptera unknown")
    return flagged >= LEAST_FLAGGED


def left_out(arguments, assets):
    """Mean AUROC of the novelty of a class that the head was not shown, over trashnet's classes, and the
    share of unseen photographs of the other classes that come back as unknown."""
    root, files, y = dataset(assets, "trashnet")
    classes = [file.parent.name for file in files]
    areas, alarms = [], []
    for missing in sorted(set(classes)):
        unknown = np.array([name == missing for name in classes])
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            # Every second photograph of the known classes is learnt, the others are judged.
            learnt = ~unknown & every_second(y)
            for part, chosen in [("learnt", learnt), ("judged", ~learnt)]:
                for index in np.flatnonzero(chosen):
                    target = folder / part / files[index].relative_to(root)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(files[index], target)
            head, lines = folder / "head.safetensors", folder / "predictions.jsonl"
            command = ["train", folder / "learnt", "--backbone", BACKBONE, "--kind", "prototype"]
            command += ["--false-alarms", FALSE_ALARMS]
            graftd(arguments, *command, "--folds", 2, "--json", "--save", head)
            command = ["evaluate", folder / "judged", "--head", head, "--json"]
            graftd(arguments, *command, "--predictions", lines)
            said = [json.loads(line) for line in lines.read_text().splitlines()]
        is_unknown = [answer["image"].split("/")[0] == missing for answer in said]
        areas.append(roc_auc_score(is_unknown, [answer["novelty"] for answer in said]))
        known = [answer for answer, unknown in zip(said, is_unknown) if not unknown]
        alarms.append(np.mean([bool(answer["unknown"]) for answer in known]))
        print(
            f"  without {missing:10} AUROC {areas[-1]:.3f}, false alarms on {len(known)} unseen"
            f" photographs of known classes {100 * alarms[-1]:.1f} %",
            flush=True,
        )
    print(
        f"one class left out of trashnet: mean AUROC {np.mean(areas):.3f}, mean false alarms"
        f" {100 * np.mean(alarms):.1f} % where {100 * FALSE_ALARMS:.0f} % were asked for"
    )
    return np.mean(areas) >= LEAST_AREA and np.mean(alarms) <= MOST_FALSE_ALARMS


def every_second(y):
    """Every second sample of each class."""
    seen = np.zeros(len(y), int)
    for label in np.unique(y):
        seen[y == label] = np.arange(np.sum(y == label))
    return seen % 2 == 0


def read_head(file):
    """The description and the tensors of a safetensors file."""
    data = file.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    description = json.loads(header.pop("__metadata__")["graftd"])
    types = {"F32": np.float32, "F16": np.float16, "U32": np.uint32}
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        values = np.frombuffer(data[begin:end], types[entry["dtype"]]).astype(np.float64)
        tensors[name] = values.reshape(entry["shape"])
    return description, tensors


def probabilities(description, tensors, x):
    """A head as its documentation describes it, in f64."""
    x = x.astype(np.float64)
    for index, step in enumerate(description["transform"]):
        if step == "unit-length":
            x = x / np.linalg.norm(x)
        else:
            x = (x - tensors[f"transform.{index}.mean"]) * tensors[f"transform.{index}.scale"]
    form = description["classifier"]["form"]
    layer = lambda name, x: tensors[f"{name}.weights"] @ x + tensors[f"{name}.bias"]
    if form == "linear":
        scores = layer("classifier", x)
    elif form == "kernel":
        cosines = tensors["classifier.landmarks"] @ (x / np.linalg.norm(x))
        weights = np.exp((cosines - 1) / description["classifier"]["bandwidth"])
        scores = layer("classifier.output", weights)
    elif form == "perceptron":
        scores = layer("classifier.output", np.maximum(layer("classifier.hidden", x), 0))
    elif form == "neighbours":
        cosines = tensors["classifier.rows"] @ (x / np.linalg.norm(x))
        nearest = np.argsort(-cosines)[: description["classifier"]["neighbours"]]
        votes = np.full(len(description["classes"]), 1e-6)
        weights = np.exp((cosines[nearest] - 1) / description["classifier"]["bandwidth"])
        np.add.at(votes, tensors["classifier.labels"].astype(int)[nearest], weights)
        scores = np.log(votes)
    else:
        raise SystemExit(f"no formula for {form}")
    scores = scores / description["temperature"]
    if description["kind"] == "multi-label":
        return 1 / (1 + np.exp(-scores))
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def export(arguments, assets, backbone):
    description, tensors = read_head(arguments.out / "trashnet.safetensors")
    session = onnxruntime.InferenceSession(arguments.out / "trashnet.onnx")
    largest = 0
    for file in dataset(assets, "trashnet")[1][::24]:
        tensor = backbone.tensor(file)
        expected = probabilities(
            description, tensors, backbone.run(backbone.session, backbone.embedding, tensor)
        )
        found = backbone.run(session, "probabilities", tensor)
        largest = max(largest, np.abs(found - expected).max())
    print(f"exported {description['kind']} head in onnxruntime: largest difference {largest:.1e}")
    return largest <= 1e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graftd", type=pathlib.Path, default=REPOSITORY / "target/release/graftd")
    parser.add_argument("--out", type=pathlib.Path, default=REPOSITORY / "target/train_compare")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=["accuracy", "unknowns", "export", "speed"])
    parser.add_argument("--sizes", default="1000,10000,100000", help="samples, for the speed")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    assets = assets_folder()
    backbone = Backbone(assets)
    install(arguments, backbone)
    parts = {
        "accuracy": lambda: accuracy(arguments, assets, backbone),
        "unknowns": lambda: unknowns(arguments, assets) & left_out(arguments, assets),
        "export": lambda: export(arguments, assets, backbone),
        "speed": lambda: softmax_speed.compare(
            np.concatenate(
                [
                    embeddings(backbone, dataset(assets, name)[1], arguments.out / f"{name}.npy")
                    for name in DATASETS
                ]
            ),
            [int(size) for size in arguments.sizes.split(",")],
            arguments.out,
        ),
    }
    # The export runs the head that the unknowns were found with.
    wanted = {None: list(parts), "export": ["unknowns", "export"]}
    good = True
    for part in wanted.get(arguments.only, [arguments.only]):
        good &= bool(parts[part]())
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
