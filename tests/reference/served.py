"""A graftd daemon for the scripts that look at it from outside, and the stubs to talk to it.

Not a script: `open_inference.py` and `bad_input.py` import it.
"""

import importlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile

import grpc

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
NO_LIMIT = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def assets_folder():
    """$GRAFTD_ASSETS, else ../shared/assets beside the repository."""
    return pathlib.Path(os.environ.get("GRAFTD_ASSETS", REPOSITORY / "../shared/assets"))


class Daemon:
    """`graftd serve` on a free port with a state folder of its own, for a `with` block."""

    def __init__(self, graftd, *flags):
        self.graftd, self.flags = str(pathlib.Path(graftd).resolve()), flags
        self.folder = tempfile.TemporaryDirectory()
        self.state = self.folder.name
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"

    def add(self, model, id, *preprocessing):
        """`graftd models add` into this daemon's folder, before it starts."""
        command = [self.graftd, "models", "add", str(model), "--id", id, *preprocessing]
        subprocess.run([*command, "--state-dir", self.state], check=True, capture_output=True)

    def __enter__(self):
        self.log = open(pathlib.Path(self.state) / "log.txt", "w+")
        command = [self.graftd, "serve", "--listen", self.address, "--state-dir", self.state]
        self.process = subprocess.Popen([*command, *self.flags], stderr=self.log, stdout=self.log)
        self.channel = self.connect()
        grpc.channel_ready_future(self.channel).result(timeout=60)
        return self

    def connect(self):
        return grpc.insecure_channel(self.address, options=NO_LIMIT)

    def resident_megabytes(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1000

    def __exit__(self, *_):
        self.channel.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)
        self.log.close()
        self.folder.cleanup()


def stubs(*modules):
    """Compiles `proto/` into a temporary folder and imports modules such as `graft.v1.image_pb2`."""
    from grpc_tools import protoc

    folder = tempfile.mkdtemp(prefix="graftd-stubs-")
    root = REPOSITORY / "proto"
    files = [str(file.relative_to(root)) for file in sorted(root.rglob("*.proto"))]
    include = pathlib.Path(protoc.__file__).parent / "_proto"
    arguments = [
        f"-I{root}",
        f"-I{include}",
        f"--python_out={folder}",
        f"--grpc_python_out={folder}",
    ]
    if protoc.main(["protoc", *arguments, *files]) != 0:
        raise SystemExit("protoc failed")
    sys.path.insert(0, folder)
    return [importlib.import_module(module) for module in modules]


class Checks:
    """Collects what held and what did not, and prints it as it comes."""

    def __init__(self):
        self.failed = 0

    def check(self, name, held, found=""):
        self.failed += not held
        print(
            f"{'ok  ' if held else 'FAIL'}  {name}" + (f"  [{found}]" if found else ""), flush=True
        )

    def end(self):
        print("all held" if not self.failed else f"{self.failed} did not hold")
        return 1 if self.failed else 0
