//! `graftd models` as a user runs it: adding, listing, inspecting, pulling and removing backbones,
//! and what is refused.

#![cfg(feature = "daemon")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::onnx::{model, node, weights};
use prost::Message as _;
use serde_json::{Value, json};

/// The assets folder, or a plain note that the test was skipped.
fn assets() -> Option<PathBuf> {
    let folder = std::env::var_os("GRAFTD_ASSETS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/assets"),
        PathBuf::from,
    );
    let found = folder.join("models").is_dir();
    if !found {
        println!("skipped: the test assets are not here");
    }
    found.then_some(folder)
}

fn graftd(state: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_graftd"))
        .arg("models")
        .args(arguments)
        .arg("--state-dir")
        .arg(state)
        .output()
        .unwrap()
}

fn json_lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The error of a command that must fail and leave nothing behind.
fn refusal(state: &Path, arguments: &[&str]) -> String {
    let message = refused(&graftd(state, arguments));
    let left = std::fs::read_dir(state.join("backbones")).map_or(0, |entries| {
        entries.filter(|entry| entry.as_ref().unwrap().file_name() != ".downloads").count()
    });
    assert_eq!(left, 0, "{arguments:?} left something behind");
    message
}

/// The error of a command that must fail.
fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "it was accepted");
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn reference(name: &str) -> String {
    format!("{}/tests/reference/{name}", env!("CARGO_MANIFEST_DIR"))
}

const PERSON: &str = "models/person-mobilenet-v1-0.25-96.onnx";

#[test]
fn a_model_is_added_listed_inspected_replaced_and_removed() {
    let Some(assets) = assets() else { return };
    let state = tempfile::tempdir().unwrap();
    let state = state.path();
    let labels = state.join("labels.txt");
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&labels)
        .unwrap()
        .write_all(b"nobody\nperson\n")
        .unwrap();
    let model = assets.join(PERSON);
    let add = [
        "add",
        model.to_str().unwrap(),
        "--id",
        "person",
        "--preset",
        "unit",
        "--labels",
        labels.to_str().unwrap(),
        "--json",
    ];
    let added = &json_lines(&graftd(state, &add))[0];
    assert_eq!(added["input"]["size"], 96);
    assert_eq!((&added["classes"], &added["embedding_width"]), (&2.into(), &256.into()));

    let again = graftd(state, &add);
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(again["error"]["code"], "ALREADY_EXISTS");
    assert!(again["error"]["message"].as_str().unwrap().contains("--force"), "{again}");
    let forced: Vec<&str> = add.iter().copied().chain(["--force"]).collect();
    json_lines(&graftd(state, &forced));

    let listed = json_lines(&graftd(state, &["list", "--json"]));
    assert_eq!((&listed[0]["id"], &listed[0]["state"]), (&"builtin".into(), &"built_in".into()));
    assert_eq!((&listed[1]["id"], &listed[1]["state"]), (&"person".into(), &"installed".into()));
    let other = listed.iter().find(|line| line["id"] == "mobilenet-v2").unwrap();
    assert_eq!((&other["state"], &other["verified"]), (&"available".into(), &false.into()));

    let inspected = &json_lines(&graftd(state, &["inspect", "person", "--json"]))[0];
    let layers = inspected["layers"].as_array().unwrap();
    let layer = |name: &Value| layers.iter().find(|layer| layer["name"] == *name).unwrap();
    assert_eq!(layer(&inspected["explanation_layer"])["explainable"], true);
    assert_eq!(inspected["preprocessing"]["size"], 96);

    assert!(graftd(state, &["remove", "person"]).status.success());
    assert!(!graftd(state, &["remove", "person"]).status.success());
    assert_eq!(std::fs::read_dir(state.join("backbones")).unwrap().count(), 0);
}

/// The layers of a backbone as `models inspect` tells them: name, operator, waist, explainable,
/// trainable, obstacle; and the same for a person, a line a layer.
fn layers(state: &Path, id: &str) -> (Vec<Value>, Vec<String>) {
    let inspected = &json_lines(&graftd(state, &["inspect", id, "--json"]))[0];
    let of = |layer: &Value| {
        let keys = ["name", "operator", "waist", "explainable", "trainable", "obstacle"];
        Value::Array(keys.map(|key| layer[key].clone()).to_vec())
    };
    let objects = inspected["layers"].as_array().unwrap().iter().map(of).collect();
    let output = graftd(state, &["inspect", id]);
    let text = String::from_utf8(output.stdout).unwrap();
    let table = text.lines().skip_while(|line| !line.contains("FINE-TUNE")).skip(1);
    let in_columns = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    (objects, table.map(in_columns).collect())
}

#[test]
fn every_layer_is_told_with_whether_it_can_be_explained_and_fine_tuned_from() {
    let state = tempfile::tempdir().unwrap();
    let model = reference("tiny/logits.onnx");
    let add = ["add", &model, "--id", "tiny", "--preset", "unit"];
    assert!(graftd(state.path(), &add).status.success());
    let (objects, lines) = layers(state.path(), "tiny");
    // In a chain each layer is a waist; once pooled there is no place left to look at.
    let expected = [
        json!(["conv1", "Conv", true, true, true, null]),
        json!(["relu1", "Relu", true, true, true, null]),
        json!(["conv2", "Conv", true, true, true, null]),
        json!(["relu2", "Relu", true, true, true, null]),
        json!(["pooled", "GlobalAveragePool", true, false, true, null]),
        json!(["features", "Flatten", true, false, true, null]),
        json!(["logits", "Gemm", true, false, true, null]),
    ];
    assert_eq!(objects, expected);
    let expected = [
        "conv1 Conv 1,8,8,8 yes yes yes",
        "relu1 Relu 1,8,8,8 yes yes yes",
        "conv2 Conv 1,12,4,4 yes yes yes",
        "relu2 Relu 1,12,4,4 yes yes yes",
        "pooled GlobalAveragePool 1,12,1,1 yes yes",
        "features Flatten 1,12 yes yes",
        "logits Gemm 1,4 yes yes",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn layers_before_an_operator_without_a_rule_are_told_with_that_operator_and_its_node() {
    let nodes = vec![
        node("Conv", &["image", "kernel"], "map"),
        node("ConvTranspose", &["map", "enlarging"], "larger"),
        node("Conv", &["larger", "square"], "inner"),
        node("Add", &["inner", "larger"], "sum"),
        node("GlobalAveragePool", &["sum"], "pooled"),
        node("Flatten", &["pooled"], "flat"),
        node("Gemm", &["flat", "matrix"], "logits"),
    ];
    let shapes: [(&str, &[i64]); 4] = [
        ("kernel", &[8, 3, 3, 3]),
        ("enlarging", &[8, 6, 3, 3]),
        ("square", &[6, 6, 1, 1]),
        ("matrix", &[6, 4]),
    ];
    let weights = shapes.map(|(name, shape)| weights(name, shape)).to_vec();
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("enlarging.onnx");
    let bytes = model(&[1, 3, 16, 16], nodes, weights).encode_to_vec();
    graftd::base::atomic::write(&file, &bytes).unwrap();
    let add = ["add", file.to_str().unwrap(), "--id", "enlarging", "--preset", "unit"];
    assert!(graftd(state.path(), &add).status.success());
    let (objects, lines) = layers(state.path(), "enlarging");
    // What a skip connection passes by is no waist.
    let expected = [
        json!(["map", "Conv", true, false, false, "Deconv larger_node"]),
        json!(["larger", "ConvTranspose", true, true, true, null]),
        json!(["inner", "Conv", false, true, false, null]),
        json!(["sum", "Add", true, true, true, null]),
        json!(["pooled", "GlobalAveragePool", true, false, true, null]),
        json!(["flat", "Flatten", true, false, true, null]),
        json!(["logits", "Gemm", true, false, true, null]),
    ];
    assert_eq!(objects, expected);
    let obstacle = "no: Deconv larger_node";
    assert_eq!(lines[0], format!("map Conv 1,8,14,14 yes {obstacle} {obstacle}"));
    assert_eq!(lines[2], "inner Conv 1,6,16,16 yes");
    assert_eq!(lines.len(), objects.len());
}

#[test]
fn the_built_in_backbone_can_be_inspected_but_not_removed() {
    let state = tempfile::tempdir().unwrap();
    let inspected = &json_lines(&graftd(state.path(), &["inspect", "builtin", "--json"]))[0];
    assert_eq!(inspected["classifier"], Value::Null);
    let layers = inspected["layers"].as_array().unwrap();
    let last = layers.iter().find(|layer| layer["name"] == inspected["explanation_layer"]);
    assert_eq!(last.unwrap()["explainable"], true);
    assert!(refusal(state.path(), &["remove", "builtin"]).contains("part of graftd"));
}

#[test]
fn hostile_ids_are_refused() {
    let state = tempfile::tempdir().unwrap();
    let long = "a".repeat(300);
    for id in ["a/b", "..", "../../etc", "", ".hidden", "UPPER", long.as_str()] {
        for arguments in
            [["add", "nothing.onnx", "--id", id].as_slice(), &["remove", id], &["pull", id]]
        {
            let message = refusal(state.path(), arguments);
            assert!(message.contains("not a valid name") || id.is_empty(), "{id}: {message}");
        }
    }
}

#[test]
fn files_that_are_no_usable_model_are_refused_with_the_reason() {
    let Some(assets) = assets() else { return };
    let state = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = state.path().join(name);
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).open(&path).unwrap();
        file.write_all(bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let person = std::fs::read(assets.join(PERSON)).unwrap();
    let add = |path: &str, more: &[&str]| {
        let arguments = [&["add", path, "--id", "x", "--preset", "unit"], more].concat();
        refusal(state.path(), &arguments)
    };

    add(&write("empty.onnx", b""), &[]);
    add(&write("text.onnx", b"this is not a model"), &[]);
    add(&write("cut.onnx", &person[..person.len() / 2]), &[]);
    add(state.path().join("absent.onnx").to_str().unwrap(), &[]);

    let int8 = assets.join("models/mobilenet-v2-int8.onnx");
    let int8 = int8.to_str().unwrap();
    assert!(add(int8, &[]).contains("operator com.microsoft.QLinear"));
    let output = graftd(state.path(), &["add", int8, "--id", "x", "--preset", "unit", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["id"], &told["error"]["code"]), (&"x".into(), &"UNIMPLEMENTED".into()));
    assert!(told["error"]["message"].as_str().unwrap().contains("at node"), "{told}");

    let model = assets.join(PERSON);
    let model = model.to_str().unwrap();
    let wrong_size = add(model, &["--size", "224"]);
    assert!(wrong_size.contains("96 x 96") && wrong_size.contains("--size 96"), "{wrong_size}");
    let no_preset = refusal(state.path(), &["add", model, "--id", "x"]);
    assert!(no_preset.contains("preset"), "{no_preset}");
    assert!(add(model, &["--channels", "gray"]).contains("channels"));
    assert!(add(model, &["--std", "0"]).contains("std"));
    let labels = write("three.txt", b"a\nb\nc\n");
    assert!(add(model, &["--labels", &labels]).contains("3 labels"));
    let manifest = write("other.toml", format!("sha256 = \"{}\"\n", "0".repeat(64)).as_bytes());
    assert!(add(model, &["--manifest", &manifest]).contains("SHA-256"));
}

#[test]
fn a_folder_that_another_process_holds_is_not_written() {
    let Some(assets) = assets() else { return };
    let state = tempfile::tempdir().unwrap();
    let _held = graftd::store::StateLock::acquire(state.path()).unwrap();
    let model = assets.join(PERSON);
    let message = refusal(
        state.path(),
        &["add", model.to_str().unwrap(), "--id", "person", "--preset", "unit"],
    );
    assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
    assert!(message.contains("graftctl backbones upload"), "{message}");
    let message = refusal(state.path(), &["pull", "mobilenet-v2"]);
    assert!(message.contains("--state-dir"), "{message}");
    let message = refusal(state.path(), &["remove", "person"]);
    assert!(message.contains("graftctl backbones delete"), "{message}");
    assert!(graftd(state.path(), &["list"]).status.success());
}

#[test]
fn a_backbone_is_pulled_from_a_catalogue_of_ones_own() {
    let Some(assets) = assets() else { return };
    let state = tempfile::tempdir().unwrap();
    let model = std::fs::read(assets.join("models/mobilenet-v1-0.25-128.onnx")).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let content = model.clone();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            lines.map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
            counted.fetch_add(1, Ordering::Relaxed);
            let length = content.len();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            let _ = stream.write_all(&content);
        }
    });
    let catalog = state.path().join("catalog.toml");
    let entry = |id: &str, size: u32, sha256: graftd::base::digest::Digest| {
        format!(
            "[[backbone]]\nid = \"{id}\"\nname = \"MobileNetV1\"\npath = \"model.onnx\"\n\
             sha256 = \"{sha256}\"\nsize_bytes = {}\nlicence = \"Apache-2.0\"\n\
             labels = \"imagenet\"\npreprocessing = {{ preset = \"tf\", size = {size} }}\n\
             verified = true\n",
            model.len()
        )
    };
    let digest = graftd::base::digest::Digest::of;
    let text = format!(
        "mirrors = [\"http://127.0.0.1:1/\", \"http://{address}/\"]\n{}{}{}",
        entry("small", 128, digest(&model)),
        entry("wrong", 128, digest(b"another file")),
        entry("unfit", 96, digest(&model))
    );
    graftd::base::atomic::write(&catalog, text.as_bytes()).unwrap();
    let catalog = catalog.to_str().unwrap();

    let message = refusal(state.path(), &["pull", "wrong", "--catalog", catalog]);
    assert!(message.contains("SHA-256") && message.contains("127.0.0.1:1"), "{message}");
    assert!(refusal(state.path(), &["pull", "absent", "--catalog", catalog]).contains("absent"));
    let pulled = graftd(state.path(), &["pull", "small", "--catalog", catalog, "--json"]);
    let pulled = &json_lines(&pulled)[0];
    assert_eq!((&pulled["id"], &pulled["classes"]), (&"small".into(), &1000.into()));
    let inspected = &json_lines(&graftd(state.path(), &["inspect", "small", "--json"]))[0];
    assert_eq!(inspected["source"], format!("http://{address}/model.onnx"));

    let message = refused(&graftd(state.path(), &["pull", "unfit", "--catalog", catalog]));
    assert!(message.contains("128"), "{message}");
    let before = asked.load(Ordering::Relaxed);
    let again = ["pull", "small", "--as", "again", "--catalog", catalog, "--json"];
    json_lines(&graftd(state.path(), &again));
    assert_eq!(asked.load(Ordering::Relaxed), before, "what was refused was kept and is used");
}

#[test]
fn a_network_that_computes_no_numbers_is_refused() {
    let state = tempfile::tempdir().unwrap();
    let model = reference("awkward/not-a-number.onnx");
    let message = refusal(state.path(), &["add", &model, "--id", "x", "--preset", "unit"]);
    assert!(message.contains("\"features\" is NaN"), "{message}");
}

#[test]
fn the_tensors_that_a_manifest_names_are_taken_instead_of_what_is_found() {
    let state = tempfile::tempdir().unwrap();
    let model = reference("tiny/softmax.onnx");
    let manifest = state.path().join("manifest.toml");
    let add = |tensors: &str| {
        graftd::base::atomic::write(&manifest, format!("[tensors]\n{tensors}\n").as_bytes())
            .unwrap();
        let manifest = manifest.to_str().unwrap();
        let shared = ["add", &model, "--id", "x", "--preset", "unit", "--force", "--json"];
        graftd(state.path(), &[&shared[..], &["--manifest", manifest]].concat())
    };
    let parts = |tensors: &str| {
        let added = &json_lines(&add(tensors))[0];
        (added["classes"].as_u64(), added["embedding_width"].as_u64().unwrap())
    };
    let added = &json_lines(&add("waists = [\"relu1\"]"))[0];
    assert_eq!((&added["waists"], &added["embedding_width"]), (&1.into(), &12.into()));
    let inspected = &json_lines(&graftd(state.path(), &["inspect", "x", "--json"]))[0];
    let waists = inspected["layers"].as_array().unwrap().iter().filter(|l| l["waist"] == true);
    assert_eq!(waists.map(|layer| &layer["name"]).collect::<Vec<_>>(), ["relu1"]);
    assert_eq!(parts(""), (Some(4), 12));
    assert_eq!(parts("embedding = \"relu1\"\ninput = \"input\""), (Some(4), 8));
    assert_eq!(parts("logits = \"features\"\nembedding = \"relu2\""), (Some(12), 12));
    assert_eq!(parts("logits = \"logits\"\nno_classifier = true"), (None, 4));
    for (wrong, told) in [
        ("embedding = \"nowhere\"", "no tensor \\\"nowhere"),
        ("waists = [\"relu1\", \"nowhere\"]", "no tensor \\\"nowhere"),
        ("logits = \"nowhere\"", "no tensor \\\"nowhere"),
        ("input = \"nowhere\"", "the inputs are \\\"input"),
    ] {
        let refused = add(wrong);
        let said = String::from_utf8(refused.stdout).unwrap();
        assert!(refused.status.code() == Some(1) && said.contains(told), "{wrong}: {said}");
    }
}

#[test]
fn a_trial_steps_back_before_it_reads_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("model.onnx");
    // Reading a pipe that nobody writes waits, so that the child can be looked at.
    if !Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()) {
        println!("skipped: no mkfifo here");
        return;
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_graftd"))
        .arg("check-model")
        .arg(&pipe)
        .args(["--memory-bytes", "1000000000", "--cpu-seconds", "100"])
        .spawn()
        .unwrap();
    let process = format!("/proc/{}", child.id());
    let read = |file: &str| std::fs::read_to_string(format!("{process}/{file}")).unwrap();
    // The limits are set last.
    let limited = || read("limits").lines().any(|line| line.contains("1000000000"));
    for _ in 0..10_000 {
        if limited() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let (score, stat) = (read("oom_score_adj"), read("stat"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(score.trim(), "1000");
    // Behind the name in brackets: state is field 3, nice 19.
    let nice = stat.rsplit(')').next().unwrap().split_whitespace().nth(19 - 3);
    assert_eq!(nice, Some("10"), "{stat}");
}
