#!/usr/bin/env python3
"""Everything that a hostile or careless client can send: each is refused with the right status, and
after each the daemon answers a good request.

    python3 -m venv .venv && .venv/bin/pip install grpcio-tools onnx numpy pillow
    .venv/bin/python tests/reference/bad_input.py --graftd target/release/graftd
"""

import argparse
import io
import pathlib
import struct
import sys
import threading
import zlib

import grpc
import numpy as np
from PIL import Image

import served

MODEL = "mobilenet-v1-0.25-128"
INVALID = "INVALID_ARGUMENT"


# --- pictures -----------------------------------------------------------------------------------


def encoded(picture, kind):
    out = io.BytesIO()
    picture.save(out, kind)
    return out.getvalue()


def png(width, height, body):
    """A PNG whose header says `width` x `height` and whose pixels are `body`, deflated or not."""

    def chunk(name, data):
        checksum = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def bad_pictures(good):
    """Names and bytes of pictures that have to be refused."""
    yield "nothing at all", b""
    yield "one byte", b"\xff"
    yield "text", b"this is not a picture, it is a sentence" * 100
    yield "an ELF program", b"\x7fELF" + bytes(4096)
    yield "65535 x 65535 with a tiny body", png(65535, 65535, zlib.compress(b"\0"))
    yield "a decompression bomb", png(40000, 40000, zlib.compress(bytes(40_000_000), 9))
    yield "a PNG whose pixels are not deflated", png(64, 64, bytes(range(256)))
    yield "a JPEG header 65535 x 65535", b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + b"\x01\x11\x00" * 3
    gif = bytearray(encoded(Image.new("P", (8, 8)), "GIF"))
    gif[6:10] = b"\xff\xff\xff\xff"
    yield "a GIF header 65535 x 65535", bytes(gif)
    webp = encoded(Image.new("RGB", (64, 64)), "WEBP")
    yield "a WebP cut in the middle", webp[: len(webp) // 2]
    bmp = bytearray(encoded(Image.new("RGB", (64, 64)), "BMP"))
    bmp[18:26] = struct.pack("<ii", 2**31 - 1, 2**31 - 1)
    yield "a BMP that claims 2^31 - 1 squared", bytes(bmp)


# --- networks -----------------------------------------------------------------------------------


def bad_networks(assets):
    """Names and bytes of ONNX files that have to be refused."""
    import onnx
    from onnx import TensorProto, helper

    whole = (assets / f"models/{MODEL}.onnx").read_bytes()
    yield "an empty file", b""
    yield "a file cut in the middle", whole[: len(whole) // 2]
    yield "a file cut near its end", whole[:-1000]
    yield "a picture", png(8, 8, zlib.compress(bytes(72)))
    yield "int8 operators of com.microsoft", (assets / "models/mobilenet-v2-int8.onnx").read_bytes()

    def network(nodes, initializers=(), opset=13):
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            nodes,
            "bad",
            [value("input", TensorProto.FLOAT, [1, 3, 32, 32])],
            [value("output", TensorProto.FLOAT, None)],
            list(initializers),
        )
        opsets = [helper.make_opsetid("", opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def classifier(weight):
        nodes = [
            helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weight"], ["output"], transB=1),
        ]
        return network(nodes, [weight])

    yield "an unknown operator", network(
        [helper.make_node("Bewilder", ["input"], ["output"])]
    ).SerializeToString()
    yield "a cycle", network(
        [
            helper.make_node("Add", ["input", "b"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Relu", ["b"], ["output"]),
        ]
    ).SerializeToString()
    yield "an output that nothing makes", network(
        [helper.make_node("Relu", ["input"], ["elsewhere"])]
    ).SerializeToString()
    yield "an opset of the far future", network(
        [helper.make_node("Relu", ["input"], ["output"])], opset=9999
    ).SerializeToString()
    external = onnx.TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[10, 3])
    external.data_location = TensorProto.EXTERNAL
    external.external_data.add(key="location", value="../../../../etc/passwd")
    yield "external data with ../", classifier(external).SerializeToString()
    short = onnx.TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[10, 3])
    short.raw_data = b"\0" * 8
    yield "an initialiser larger than its bytes", classifier(short).SerializeToString()
    huge = onnx.TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[2**40, 3])
    huge.raw_data = b"\0" * 8
    yield "an initialiser of 2^40 rows", classifier(huge).SerializeToString()
    poison = onnx.numpy_helper.from_array(np.full((10, 3), np.nan, np.float32), "weight")
    yield "weights that are not numbers", classifier(poison).SerializeToString()


BAD_NAMES = [
    "",
    ".",
    "..",
    "a/b",
    "../up",
    "/etc/passwd",
    "a\0b",
    "x" * 300,
    "UPPER",
    "ünï",
    "a b",
    "-flag",
]


# --- attacks ------------------------------------------------------------------------------------


class Attack:
    """The daemon, the stubs, a good picture, and the checks so far."""

    def __init__(self, daemon, checks, good):
        modules = ["inference_service", "image", "backbone_service", "device_service"]
        names = [f"graft.v1.{m}_pb2{s}" for m in modules for s in ("", "_grpc")]
        self.inference, grpc_inference, self.image, _, self.backbone, grpc_backbone, *_ = (
            served.stubs(*names)
        )
        self.daemon, self.checks, self.good = daemon, checks, good
        self.inference_stub = grpc_inference.InferenceServiceStub
        self.calls = grpc_inference.InferenceServiceStub(daemon.channel)
        self.backbones = grpc_backbone.BackboneServiceStub(daemon.channel)

    def request(self, data=None, raw=None, **fields):
        image = self.image.Image(raw=raw) if raw else self.image.Image(encoded=data)
        return self.inference.PredictRequest(image=image, **fields)

    def expect(self, name, codes, call):
        """`call` is refused with one of `codes` and a message, and a good request still answers."""
        try:
            call()
            found, message = "accepted", ""
        except grpc.RpcError as error:
            found, message = error.code().name, error.details() or ""
        good = self.calls.Predict(self.request(self.good), timeout=60)
        # tonic's own words for a method that nobody wrote are no refusal.
        held = found in codes and message not in ("", "Not yet implemented")
        held &= len(good.predictions) == 5
        self.checks.check(f"{name}: {' or '.join(codes)}", held, f"{found}: {message[:110]}")

    def predict(self, name, codes, **request):
        self.expect(name, codes, lambda: self.calls.Predict(self.request(**request), timeout=60))

    def upload(self, id, data, size=128):
        preprocessing = self.backbone.Preprocessing(
            size=size, resize=1, channels=1, scale=1 / 127.5, mean=[1, 1, 1], std=[1, 1, 1]
        )
        manifest = self.backbone.BackboneManifest(id=id, preprocessing=preprocessing)
        messages = [self.backbone.UploadBackboneRequest(manifest=manifest)]
        messages += [
            self.backbone.UploadBackboneRequest(chunk=data[start : start + 1_000_000])
            for start in range(0, len(data), 1_000_000)
        ]
        return self.backbones.UploadBackbone(iter(messages), timeout=120)


def attack_pictures(attack):
    for name, data in bad_pictures(attack.good):
        attack.predict(name, [INVALID], data=data)
    refused = 0
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF"):
        data = encoded(Image.open(io.BytesIO(attack.good)).resize((48, 48)), kind)
        for end in sorted({*range(0, len(data), max(1, len(data) // 40))}):
            try:
                attack.calls.Predict(attack.request(data[:end]), timeout=60)
            except grpc.RpcError as error:
                refused += 1
                if error.code().name != INVALID:
                    attack.checks.check(f"{kind} cut at {end}", False, error.code().name)
    attack.checks.check(
        "pictures cut at 200 places: INVALID_ARGUMENT or readable", refused > 100, refused
    )
    for size in [(1, 1), (1, 65535), (65535, 1)]:
        data = encoded(Image.new("RGB", size, "red"), "PNG")
        answer = attack.calls.Predict(attack.request(data), timeout=60)
        attack.checks.check(
            f"a picture of {size[0]} x {size[1]} is answered", len(answer.predictions) == 5
        )


def attack_requests(attack):
    frame = attack.image.RawFrame
    raw = lambda **fields: frame(**{"format": 1, "width": 64, "height": 64, **fields})
    attack.predict("a raw frame one byte short", [INVALID], raw=raw(data=bytes(64 * 64 * 3 - 1)))
    attack.predict("a raw frame without pixels", [INVALID], raw=raw(data=b""))
    attack.predict("a raw frame of 0 x 64", [INVALID], raw=raw(width=0, data=b""))
    attack.predict(
        "a raw frame of 2^32 - 1 squared",
        [INVALID],
        raw=raw(width=2**32 - 1, height=2**32 - 1, data=b"1"),
    )
    attack.predict("a stride below the row", [INVALID], raw=raw(stride=10, data=bytes(64 * 64 * 3)))
    attack.predict(
        "an unknown pixel format", [INVALID], raw=raw(format=99, data=bytes(64 * 64 * 3))
    )
    attack.expect(
        "no image", [INVALID], lambda: attack.calls.Predict(attack.inference.PredictRequest())
    )
    attack.predict("top_k 0", [INVALID], data=attack.good, top_k=0)
    try:
        answer = attack.calls.Predict(attack.request(attack.good, top_k=10**9), timeout=60)
        attack.checks.check("top_k 10^9: all classes", len(answer.predictions) in (1000, 1001))
    except grpc.RpcError as error:
        attack.checks.check(
            "top_k 10^9: INVALID_ARGUMENT", error.code().name == INVALID, error.details()
        )
    attack.predict(
        "an unknown backbone", ["NOT_FOUND"], data=attack.good, backbone="no-such-backbone"
    )
    attack.predict("an unknown head", ["NOT_FOUND"], data=attack.good, head="no-such-head")
    attack.predict("head and backbone", [INVALID], data=attack.good, head="a", backbone=MODEL)
    for name in BAD_NAMES[1:]:
        attack.predict(
            f"backbone {name[:20]!r}", [INVALID, "NOT_FOUND"], data=attack.good, backbone=name
        )
    attack.predict(
        "a message over the limit",
        ["RESOURCE_EXHAUSTED", "OUT_OF_RANGE", INVALID],
        data=bytes(33 << 20),
    )


def attack_streams(attack):
    """A bad item in a stream, streams cut and dropped, ten thousand of them."""
    items = [
        attack.inference.PredictStreamRequest(
            correlation_id=str(index), request=attack.request(data)
        )
        for index, data in enumerate([attack.good, b"bad", attack.good])
    ]
    answers = {a.correlation_id: a for a in attack.calls.PredictStream(iter(items), timeout=60)}
    held = (
        set(answers) == {"0", "1", "2"}
        and answers["1"].failure.code == 3
        and len(answers["2"].response.predictions) == 5
    )
    attack.checks.check("a bad item answers with its own status and the stream lives on", held)

    before = attack.daemon.resident_megabytes()
    for _ in range(10):
        channel = attack.daemon.connect()
        calls = attack.inference_stub(channel)
        streams = []
        for _ in range(1000):
            stream = calls.PredictStream(iter([items[0]] if len(streams) % 100 == 0 else []))
            streams.append(stream)
        for stream in streams:
            stream.cancel()
        channel.close()
    attack.calls.Predict(attack.request(attack.good), timeout=60)
    after = attack.daemon.resident_megabytes()
    attack.checks.check(
        "10,000 streams opened and dropped", after < before + 64, f"{before:.0f} to {after:.0f} MB"
    )

    host, port = attack.daemon.address.split(":")
    for cut in (
        b"",
        b"PRI * HTTP/2.0\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(100_000),
    ):
        with served.socket.create_connection((host, int(port))) as connection:
            try:
                connection.sendall(cut)
            except OSError:
                pass
    answer = attack.calls.Predict(attack.request(attack.good), timeout=60)
    attack.checks.check("connections cut in the middle of a message", len(answer.predictions) == 5)


def attack_crowd(attack):
    """More callers than the queue holds: answered or told to come back, never stuck."""
    codes = []

    def call():
        try:
            attack.calls.Predict(attack.request(attack.good), timeout=60)
            codes.append("OK")
        except grpc.RpcError as error:
            codes.append(error.code().name)

    callers = [threading.Thread(target=call) for _ in range(800)]
    [caller.start() for caller in callers]
    [caller.join() for caller in callers]
    counts = {code: codes.count(code) for code in sorted(set(codes))}
    held = (
        set(counts) <= {"OK", "RESOURCE_EXHAUSTED"}
        and counts.get("OK", 0) > 0
        and len(codes) == 800
    )
    attack.checks.check("800 callers at once are answered or told to come back", held, counts)


def attack_networks(attack, assets):
    for name, data in bad_networks(assets):
        # The written networks are 32 pixels wide, the int8 one 224, what is cut from a file 128.
        size = 224 if "int8" in name else 128 if "cut" in name else 32
        refusals = ["UNIMPLEMENTED"] if "operator" in name else [INVALID, "FAILED_PRECONDITION"]
        attack.expect(f"upload of {name}", refusals, lambda: attack.upload("bad", data, size))
    whole = (assets / f"models/{MODEL}.onnx").read_bytes()
    for id in BAD_NAMES:
        attack.expect(f"upload named {id[:20]!r}", [INVALID], lambda: attack.upload(id, whole))
    attack.expect(
        "upload over an existing name",
        ["ALREADY_EXISTS", "FAILED_PRECONDITION"],
        lambda: attack.upload(MODEL, whole),
    )
    listed = attack.backbones.ListBackbones(attack.backbone.ListBackbonesRequest()).backbones
    added = [b.id for b in listed if not b.built_in]
    attack.checks.check("nothing of them stayed", added == [MODEL], added)
    left = [
        str(p.relative_to(attack.daemon.state))
        for p in pathlib.Path(attack.daemon.state).rglob("*bad*")
    ]
    attack.checks.check("no file of them stayed", not left, left)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graftd", default="target/release/graftd")
    arguments = parser.parse_args()
    assets = served.assets_folder()
    checks = served.Checks()
    good = sorted((assets / "images/boxes").rglob("*.jpg"))[0].read_bytes()
    daemon = served.Daemon(arguments.graftd)
    daemon.add(assets / f"models/{MODEL}.onnx", MODEL, "--preset", "tf")
    with daemon:
        attack = Attack(daemon, checks, good)
        attack.calls.Predict(attack.request(good), timeout=60)
        before = daemon.resident_megabytes()
        attack_pictures(attack)
        attack_requests(attack)
        attack_streams(attack)
        attack_crowd(attack)
        attack_networks(attack, assets)
        checks.check("the daemon is the one that was started", daemon.process.poll() is None)
        print(f"resident memory {before:.0f} MB before, {daemon.resident_megabytes():.0f} MB after")
    return checks.end()


if __name__ == "__main__":
    sys.exit(main())
