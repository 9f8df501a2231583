"""Writes squeezenet_embedding.json: the embedding of SqueezeNet 1.1 for the first reference photograph.

    python tests/reference/embedding.py ASSETS

Its classifier is a 1x1 convolution before the pooling, so no tensor of the file is the embedding: it is
the mean over height and width of what enters that convolution, as onnxruntime computes it.
"""

import json
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def main(assets: pathlib.Path) -> None:
    model = onnx.load(assets / "models/squeezenet-1.1.onnx")
    classifier = [node for node in model.graph.node if node.op_type == "Conv"][-1]
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(classifier.input[0]))
    session = onnxruntime.InferenceSession(model.SerializeToString())

    photograph = np.load(assets / "reference/rgb_u8_224.npy")[0]
    row = ((photograph / 255 - MEAN) / STD).transpose(2, 0, 1)[None].astype(np.float32)
    name = session.get_inputs()[0].name
    (feature_map,) = session.run([classifier.input[0]], {name: row})
    embedding = feature_map.mean(axis=(2, 3))[0]
    path = pathlib.Path(__file__).with_name("squeezenet_embedding.json")
    path.write_text(json.dumps([round(float(value), 7) for value in embedding]) + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
