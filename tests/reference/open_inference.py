#!/usr/bin/env python3
"""Triton's own gRPC client against graftd: metadata, tensors raw and in `contents`, photographs.

python3 -m venv .venv && .venv/bin/pip install 'tritonclient[grpc]' grpcio-tools numpy
.venv/bin/python tests/reference/open_inference.py --graftd target/release/graftd
"""

import argparse
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc

import served

MODEL = "mobilenet-v2"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def relative_difference(answer, expected):
    return float(np.abs(answer - expected).max() / np.abs(expected).max())


def refusal(call):
    """The status code with which `call` is refused; empty if it is not."""
    try:
        call()
    except triton.InferenceServerException as error:
        return error.status().removeprefix("StatusCode.")
    except served.grpc.RpcError as error:
        return error.code().name
    return ""


def tensor_input(name, values, datatype="FP32"):
    tensor = triton.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values)
    return tensor


def run(daemon, assets, checks):
    check = checks.check
    client = triton.InferenceServerClient(daemon.address)
    check("the server is live and ready", client.is_server_live() and client.is_server_ready())
    check("the model is ready", client.is_model_ready(MODEL))
    check("an unknown model is not", not _ready(client, "no-such-model"))
    server = client.get_server_metadata()
    check("server metadata has name and version", bool(server.name and server.version), server.name)
    metadata = client.get_model_metadata(MODEL)
    inputs = {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs}
    outputs = [(tensor.name, tensor.datatype) for tensor in metadata.outputs]
    check("the ONNX input is described", inputs.get("input") == ("FP32", [-1, 3, 224, 224]), inputs)
    check("the image input is described", inputs.get("image", ("",))[0] == "BYTES", inputs)
    check("the first output is the file's own", outputs[:1] == [("logits", "FP32")], outputs)

    pixels = np.load(assets / "reference/rgb_u8_224.npy")
    expected = np.load(assets / f"reference/{MODEL}.logits.npy")
    tensor = ((pixels / np.float32(255) - np.float32(MEAN)) / np.float32(STD)).transpose(0, 3, 1, 2)
    tensor = np.ascontiguousarray(tensor, np.float32)

    answer = client.infer(MODEL, [tensor_input("input", tensor)], request_id="seven")
    found = relative_difference(answer.as_numpy("logits"), expected)
    check("three rows of raw FP32 give onnxruntime's logits", found < 1e-4, f"{found:.1e}")
    response = answer.get_response()
    check("the id is echoed", response.id == "seven", response.id)
    check("a raw request gets a raw answer", len(response.raw_output_contents) > 0)
    wanted = [triton.InferRequestedOutput("logits", class_count=3)]
    classes = client.infer(MODEL, [tensor_input("input", tensor)], outputs=wanted)
    rows = [[text.decode().split(":") for text in row] for row in classes.as_numpy("logits")]
    check(
        "classification answers value:index:label",
        [[int(cell[1]) for cell in row] for row in rows] == np.argsort(-expected)[:, :3].tolist(),
        rows[0][0],
    )

    raw = service_pb2_grpc.GRPCInferenceServiceStub(daemon.channel)

    def contents(values, shape, datatype="FP32", extra=None):
        request = service_pb2.ModelInferRequest(model_name=MODEL)
        request.inputs.add(name="input", datatype=datatype, shape=shape)
        request.inputs[0].contents.fp32_contents.extend(values)
        if extra is not None:
            request.raw_input_contents.append(extra)
        return raw.ModelInfer(request)

    first = tensor[:1]
    typed = contents(first.ravel(), first.shape)
    found = relative_difference(np.array(typed.outputs[0].contents.fp32_contents), expected[0])
    check("FP32 in contents gives the same, in contents", found < 1e-4, f"{found:.1e}")

    photographs = sorted((assets / "images/boxes").rglob("*.jpg"))[:2]
    encoded = np.array([file.read_bytes() for file in photographs], dtype=np.object_)
    answer = client.infer(MODEL, [tensor_input("image", encoded, "BYTES")])
    top = answer.as_numpy("logits").argmax(axis=1).tolist()
    check("two photographs as BYTES are elephants", set(top) <= {101, 385, 386}, top)

    invalid = "INVALID_ARGUMENT"
    short = tensor[:, :, :223]
    for name, code, call in [
        ("a wrong shape", invalid, lambda: client.infer(MODEL, [tensor_input("input", short)])),
        (
            "a wrong datatype",
            invalid,
            lambda: client.infer(MODEL, [tensor_input("input", tensor.astype(np.float64), "FP64")]),
        ),
        ("too few values in contents", invalid, lambda: contents([1.0, 2.0], [1, 3, 224, 224])),
        ("a negative extent", invalid, lambda: contents([], [-1, 3, 224, 224])),
        ("a product that overflows", invalid, lambda: contents([], [2**62, 3, 224, 224])),
        (
            "both contents and raw",
            invalid,
            lambda: contents(first.ravel(), first.shape, extra=first.tobytes()),
        ),
        (
            "raw bytes one short",
            invalid,
            lambda: contents([], first.shape, extra=first.tobytes()[:-1]),
        ),
        (
            "an unknown input",
            invalid,
            lambda: client.infer(MODEL, [tensor_input("picture", first)]),
        ),
        (
            "an unknown output",
            invalid,
            lambda: client.infer(
                MODEL,
                [tensor_input("input", first)],
                outputs=[triton.InferRequestedOutput("no-such-output")],
            ),
        ),
        (
            "an unknown model",
            "NOT_FOUND",
            lambda: client.infer("no-such-model", [tensor_input("input", first)]),
        ),
    ]:
        found = refusal(call)
        check(f"{name} is refused with {code}", found == code, found or "accepted")
    check("the server still answers", client.is_model_ready(MODEL))


def _ready(client, model):
    try:
        return client.is_model_ready(model)
    except triton.InferenceServerException:
        return False


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graftd", default="target/release/graftd")
    arguments = parser.parse_args()
    assets = served.assets_folder()
    checks = served.Checks()
    daemon = served.Daemon(arguments.graftd)
    daemon.add(assets / f"models/{MODEL}.onnx", MODEL, "--preset", "imagenet")
    with daemon:
        run(daemon, assets, checks)
    return checks.end()


if __name__ == "__main__":
    sys.exit(main())
