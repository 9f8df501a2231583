"""The teacher: a pretrained ONNX network whose inner tensors are the student's targets."""

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

SIZE = 224
MAP = "mul_154"  # last feature map, 576 x 7 x 7
EMBEDDING = "mul_158"  # what enters the classifier, 1024
CLASSIFIER = "conv110"  # 1024 -> 1000


class Teacher:
    """MobileNetV3 small; answers for batches of RGB pixels `[N, 224, 224, 3]`, uint8.

    `extra` names further inner tensors whose values `answer` returns after map and embedding.
    """

    def __init__(self, path, threads=1, extra=()):
        model = onnx.load(path)
        self.outputs = [MAP, EMBEDDING, *extra]
        del model.graph.output[:]
        for name in self.outputs:
            model.graph.output.append(
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options)

    def answer(self, pixels):
        """Feature maps `[N, 576, 7, 7]`, embeddings `[N, 1024]`, then the extra tensors."""
        x = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / 127.5 - 1
        maps, embeddings, *extra = self.session.run(self.outputs, {"input": x})
        return maps, embeddings.reshape(len(x), -1), *extra


def classifier(path):
    """Weights `[1000, 1024]` and bias `[1000]` of the teacher's last layer."""
    values = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    weight = values[f"{CLASSIFIER}.weight"]
    return weight.reshape(len(weight), -1).copy(), values[f"{CLASSIFIER}.bias"].copy()
