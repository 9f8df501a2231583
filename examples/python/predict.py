"""What is in these pictures? One stream to a graftd device, answers as they come.

python predict.py [--target 127.0.0.1:7411] PICTURE...
"""

import argparse
import pathlib

import grpc
from graft.v1 import image_pb2, inference_service_pb2, inference_service_pb2_grpc

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--target", default="127.0.0.1:7411")
parser.add_argument("pictures", nargs="+", type=pathlib.Path)
arguments = parser.parse_args()


def requests():
    for picture in arguments.pictures:
        image = image_pb2.Image(encoded=picture.read_bytes())
        request = inference_service_pb2.PredictRequest(image=image, top_k=1)
        yield inference_service_pb2.PredictStreamRequest(
            correlation_id=str(picture), request=request
        )


with grpc.insecure_channel(arguments.target) as channel:
    service = inference_service_pb2_grpc.InferenceServiceStub(channel)
    for answer in service.PredictStream(requests()):
        if answer.HasField("failure"):
            print(f"{answer.correlation_id}: {answer.failure.message}")
        else:
            best = answer.response.predictions[0]
            print(f"{answer.correlation_id}: {best.label or best.index} {best.probability:.1%}")
