//! Clients in other languages, run as docs/clients.md shows them, where their tools exist.
#![cfg(feature = "daemon")]
#![allow(clippy::disallowed_methods)] // files of a test need not survive a power cut

mod common;
#[path = "common/program.rs"]
mod program;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use program::{Daemon, photograph};

/// Elephants and their like: indices 101 (tusker), 385 and 386 of ImageNet.
const ELEPHANTS: [u64; 3] = [101, 385, 386];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether `command` runs here and succeeds.
fn exists(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// A Python with grpcio-tools: `$GRAFTD_PYTHON`, that of `just venv`, or the system's.
fn python() -> Option<PathBuf> {
    let named = std::env::var_os("GRAFTD_PYTHON").map(PathBuf::from);
    let known = [named, Some(repository().join(".venv/bin/python")), Some("python3".into())];
    let fit = |python: &PathBuf| {
        exists(Command::new(python).args(["-c", "import grpc_tools.protoc, grpc"]))
    };
    let found = known.into_iter().flatten().find(fit);
    if found.is_none() {
        println!("skipped: no Python here has grpcio-tools (`just venv`, or set GRAFTD_PYTHON)");
    }
    found
}

fn text(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_python_example_streams_photographs_and_prints_answers() {
    let Some(assets) = common::assets() else { return };
    let Some(python) = python() else { return };
    let stubs = tempfile::tempdir().unwrap();
    let out = stubs.path().display();
    let protos = walkdir::WalkDir::new(repository().join("proto/graft")).into_iter();
    let protos: Vec<PathBuf> = protos
        .filter_map(|entry| Some(entry.ok()?.into_path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "proto"))
        .collect();
    let compiled = Command::new(&python)
        .current_dir(repository())
        .args(["-m", "grpc_tools.protoc", "--proto_path=proto"])
        .args([format!("--python_out={out}"), format!("--grpc_python_out={out}")])
        .args(protos.iter().map(|path| path.strip_prefix(repository()).unwrap()))
        .output();
    text(&compiled.unwrap());

    let daemon = Daemon::with_mobilenet_v2(&assets);
    let elephant = photograph(&assets);
    let no_picture = repository().join("Cargo.toml");
    let answered = Command::new(&python)
        .env("PYTHONPATH", stubs.path())
        .arg(repository().join("examples/python/predict.py"))
        .args(["--target", &daemon.address])
        .args([&elephant, &no_picture, &elephant])
        .output();
    let answered = text(&answered.unwrap());
    // A picture that cannot be read is answered as soon as that is known, before the others.
    let (photographs, refused): (Vec<_>, Vec<_>) =
        answered.lines().partition(|line| line.contains('%'));
    assert!(photographs.len() == 2 && photographs[0] == photographs[1], "{answered}");
    assert!(refused.len() == 1 && refused[0].contains("Cargo.toml"), "{answered}");
}

#[test]
fn the_go_example_prints_predictions() {
    let Some(assets) = common::assets() else { return };
    let go = repository().join("examples/go");
    let generate = ["--yes", "@bufbuild/buf@1", "generate", "../../proto", "--path"];
    let tools = exists(Command::new("go").arg("version"))
        && exists(Command::new("npx").current_dir(&go).args(generate).arg("../../proto/graft"));
    if !tools {
        println!("skipped: go or npx is not here, or cannot fetch what it needs");
        return;
    }
    let daemon = Daemon::with_mobilenet_v2(&assets);
    let answered = Command::new("go")
        .current_dir(&go)
        .args(["run", ".", "-target", &daemon.address])
        .arg(photograph(&assets))
        .output();
    let answered = text(&answered.unwrap());
    let first = answered.lines().next().unwrap_or_default();
    let index = first.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    assert!(index.is_some_and(|index| ELEPHANTS.contains(&index)), "{answered}");
    assert_eq!(answered.lines().count(), 5, "{answered}");
}

/// A client that knows the services by reflection alone.
#[derive(Clone, Copy)]
enum Reflecting {
    Grpcurl,
    Buf,
}

impl Reflecting {
    /// The one that is here, grpcurl first.
    fn here() -> Option<Self> {
        let buf = ["--yes", "@bufbuild/buf@1", "--version"];
        if exists(Command::new("grpcurl").arg("-version")) {
            Some(Self::Grpcurl)
        } else if exists(Command::new("npx").args(buf)) {
            Some(Self::Buf)
        } else {
            println!("skipped: neither grpcurl nor npx, for buf, is here");
            None
        }
    }

    fn buf(more: &[&str]) -> Command {
        let mut command = Command::new("npx");
        command
            .args(["--yes", "@bufbuild/buf@1", "curl", "--protocol", "grpc"])
            .args(["--http2-prior-knowledge"])
            .args(more);
        command
    }

    fn list(self, address: &str) -> String {
        let output = match self {
            Self::Grpcurl => Command::new("grpcurl").args(["-plaintext", address, "list"]).output(),
            Self::Buf => Self::buf(&["--list-services", &format!("http://{address}")]).output(),
        };
        text(&output.unwrap())
    }

    /// Calls `method` with a message as JSON, which goes through a file, long as it may be.
    fn call(self, address: &str, method: &str, message: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("message.json");
        std::fs::write(&file, message).unwrap();
        let mut command = match self {
            Self::Grpcurl => {
                let mut command = Command::new("grpcurl");
                command.args(["-plaintext", "-d", "@", address, method]);
                command.stdin(std::fs::File::open(&file).unwrap());
                command
            }
            Self::Buf => {
                let data = format!("@{}", file.display());
                Self::buf(&["--data", &data, &format!("http://{address}/{method}")])
            }
        };
        text(&command.output().unwrap())
    }
}

/// Base64 of RFC 4648, as bytes travel in JSON.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { digit.into() } else { '=' });
        }
    }
    text
}

#[test]
fn a_client_that_has_no_proto_file_lists_every_service_and_predicts() {
    let Some(client) = Reflecting::here() else { return };
    let assets = common::assets();
    let daemon = match &assets {
        Some(assets) => Daemon::with_mobilenet_v2(assets),
        None => Daemon::start(tempfile::tempdir().unwrap()),
    };
    let address = daemon.address.as_str();
    let services = client.list(address);
    for service in [
        "graft.v1.InferenceService",
        "graft.v1.ExplanationService",
        "graft.v1.SampleService",
        "graft.v1.TrainingService",
        "graft.v1.HeadService",
        "graft.v1.BackboneService",
        "graft.v1.DeviceService",
        "grpc.health.v1.Health",
        "inference.GRPCInferenceService",
    ] {
        assert!(services.lines().any(|line| line == service), "{service} is not in {services}");
    }
    let device = client.call(address, "graft.v1.DeviceService/GetDevice", "{}");
    assert!(device.contains(env!("CARGO_PKG_VERSION")), "{device}");
    let health = client.call(address, "grpc.health.v1.Health/Check", "{}");
    assert!(health.contains("SERVING") && !health.contains("NOT_SERVING"), "{health}");
    let configure = r#"{"dataset": "parts", "settings": {}}"#;
    for (method, message, answer) in [
        ("inference.GRPCInferenceService/ServerLive", "{}", "\"live\": true"),
        ("graft.v1.BackboneService/ListBackbones", "{}", "\"builtin\""),
        ("graft.v1.SampleService/ConfigureDataset", configure, "parts"),
        ("graft.v1.SampleService/ListDatasets", "{}", "parts"),
        ("graft.v1.HeadService/ListHeads", "{}", "{"),
        ("graft.v1.TrainingService/ListJobs", "{}", "{"),
    ] {
        // The two clients set spaces differently.
        let said = client.call(address, method, message).replace("\":\"", "\": \"");
        let said = said.replace("\":true", "\": true");
        assert!(said.contains(answer), "{method}: {said}");
    }

    let Some(assets) = assets else { return };
    let photograph = base64(&std::fs::read(photograph(&assets)).unwrap());
    let message = format!("{{\"image\": {{\"encoded\": \"{photograph}\"}}, \"topK\": 1}}");
    let answer = client.call(address, "graft.v1.InferenceService/Predict", &message);
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let index = answer["predictions"][0]["index"].as_u64();
    assert!(index.is_some_and(|index| ELEPHANTS.contains(&index)), "{answer}");
    let answer = client.call(address, "graft.v1.ExplanationService/Explain", &message);
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["explanation"]["map"].as_array().map(Vec::len), Some(49), "{answer}");
}

#[test]
fn base64_is_that_of_its_standard() {
    for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v")] {
        assert_eq!(base64(bytes.as_bytes()), text);
    }
}
