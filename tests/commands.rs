//! The command contract of `graftd` without a daemon: what `--json` prints, and what every command
//! takes.

#![cfg(feature = "daemon")]
#![allow(clippy::disallowed_methods)] // files of a test need not survive a power cut

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn reference(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name);
    file.display().to_string()
}

fn graftd(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_graftd")).args(arguments).output().unwrap()
}

fn objects(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

/// A state folder with a tiny network of four classes.
fn state_with_a_network() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state").display().to_string();
    let labels = folder.path().join("labels.txt").display().to_string();
    let words = "n01440764 ant\nn01443537 bee\nn01484850 cat\nn01491361 dog\n";
    std::fs::write(&labels, words).unwrap();
    let model = reference("tiny/logits.onnx");
    let add = ["models", "add", &model, "--id", "tiny", "--preset", "unit", "--labels", &labels];
    let added = graftd(&[&add[..], &["--state-dir", &state]].concat());
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    (folder, state)
}

#[test]
fn predict_prints_an_object_a_picture_in_order_and_fails_if_one_failed() {
    let (_folder, state) = state_with_a_network();
    let [one, gone, text, two] =
        ["pixels/baseline.jpg", "gone.jpg", "tiny.py", "pixels/grey.png"].map(reference);
    let output = graftd(&["predict", &one, &gone, &text, &two, "--json", "--state-dir", &state]);
    assert_eq!(output.status.code(), Some(1));
    let objects = objects(&output);
    let images: Vec<&str> = objects.iter().map(|o| o["image"].as_str().unwrap()).collect();
    assert_eq!(images, [&one, &gone, &text, &two]);
    assert_eq!(keys(&objects[0]), ["image", "backbone", "predictions", "timings_ms"]);
    assert_eq!(objects[0]["backbone"], "tiny");
    let predictions = objects[0]["predictions"].as_array().unwrap();
    assert_eq!(predictions.len(), 4, "five are asked for, there are four classes");
    assert_eq!(keys(&predictions[0]), ["index", "id", "label", "probability", "logit"]);
    let best = predictions[0]["index"].as_u64().unwrap() as usize;
    let [ids, labels] =
        [["n01440764", "n01443537", "n01484850", "n01491361"], ["ant", "bee", "cat", "dog"]];
    assert_eq!(
        (&predictions[0]["id"], &predictions[0]["label"]),
        (&ids[best].into(), &labels[best].into())
    );
    for (stage, time) in objects[0]["timings_ms"].as_object().unwrap() {
        let microseconds = time.as_f64().unwrap() * 1e3;
        assert!((microseconds - microseconds.round()).abs() < 1e-6, "{stage}: {time}");
    }
    let message = objects[2]["error"]["message"].as_str().unwrap();
    assert!(!message.starts_with("image") && !message.contains("raw frame"), "{message}");
    let total: f64 = predictions.iter().map(|p| p["probability"].as_f64().unwrap()).sum();
    assert!((total - 1.0).abs() < 1e-5, "{total}");
    for (failed, code) in [(&objects[1], "NOT_FOUND"), (&objects[2], "INVALID_ARGUMENT")] {
        assert_eq!(keys(failed), ["image", "error"]);
        assert_eq!(
            (keys(&failed["error"]), &failed["error"]["code"]),
            (vec!["code", "message"], &code.into())
        );
    }
    assert!(graftd(&["predict", &one, "--state-dir", &state]).status.success());
}

#[test]
fn names_that_stand_for_no_picture_fail_and_the_others_are_answered() {
    let (folder, state) = state_with_a_network();
    let good = reference("pixels/baseline.jpg");
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let empty = empty.display().to_string();
    let pattern = format!("{empty}/nomatch*.jpg");
    let output = graftd(&["predict", &good, &pattern, &empty, "--json", "--state-dir", &state]);
    assert_eq!(output.status.code(), Some(1));
    let objects = objects(&output);
    let images: Vec<&str> = objects.iter().map(|o| o["image"].as_str().unwrap()).collect();
    assert_eq!(images, [&good, &pattern, &empty]);
    assert_eq!(objects[0]["backbone"], "tiny");
    for failed in &objects[1..] {
        assert_eq!(failed["error"]["code"], "NOT_FOUND");
    }
}

#[test]
fn a_state_folder_that_is_named_and_missing_is_told() {
    let good = reference("pixels/baseline.jpg");
    let output = graftd(&["predict", &good, "--state-dir", "/nope"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("/nope") && message.contains("--state-dir"), "{message}");
}

#[test]
fn only_preprocessing_flags_stand_under_that_heading_and_their_values_are_listed() {
    let help = String::from_utf8(graftd(&["predict", "--help"]).stdout).unwrap();
    let (own, preprocessing) = help.split_once("Preprocessing (").unwrap();
    assert!(own.contains("--top-k") && own.contains("--json"), "{own}");
    assert!(!preprocessing.contains("--top-k") && !preprocessing.contains("--json"));
    assert!(preprocessing.contains("imagenet, tf, caffe, unit"), "{preprocessing}");
}

#[test]
fn predict_shows_as_many_classes_as_asked_for_and_fills_the_square_as_asked() {
    let (_folder, state) = state_with_a_network();
    let wide = reference("pixels/rgb.png");
    let predictions = |more: &[&str]| {
        let shared = ["predict", &wide, "--json", "--state-dir", &state];
        let output = graftd(&[&shared[..], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        objects(&output)[0]["predictions"].as_array().unwrap().clone()
    };
    assert_eq!(predictions(&["--top-k", "2"]).len(), 2);
    let [crop, squash, pad] =
        ["crop", "squash", "pad"].map(|policy| predictions(&["--resize", policy]));
    assert_eq!(crop, predictions(&[]), "the backbone's own policy");
    assert!(crop != squash && crop != pad && squash != pad);
    let refused = graftd(&["predict", &wide, "--resize", "stretch", "--state-dir", &state]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("crop"), "{refused:?}");
}

#[test]
fn bench_prints_one_object_with_both_measurements_and_the_memory() {
    let (_folder, state) = state_with_a_network();
    let bench = ["bench", "--seconds", "0.2", "--threads", "1", "--json", "--state-dir", &state];
    let output = graftd(&bench);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let objects = objects(&output);
    assert_eq!(objects.len(), 1);
    for part in ["engine", "end_to_end"] {
        let number = |name: &str| objects[0][part][name].as_f64().unwrap();
        assert!(number("median_ms") <= number("p95_ms") && number("p95_ms") <= number("p99_ms"));
        assert!(number("images_per_second") > 0.0);
    }
    assert!(objects[0]["resident_memory_mb"].as_f64().unwrap() > 0.0);
    assert_eq!((&objects[0]["backbone"], &objects[0]["threads"]), (&"tiny".into(), &1.into()));
}

#[test]
fn every_command_takes_a_state_folder() {
    for command in [
        &["serve"][..],
        &["predict"],
        &["models", "add"],
        &["models", "pull"],
        &["models", "list"],
        &["models", "inspect"],
        &["models", "remove"],
        &["train"],
        &["evaluate"],
        &["dataset"],
        &["store"],
        &["explain"],
        &["audit"],
        &["bench"],
        &["check-config"],
        &["demo"],
    ] {
        let help = graftd(&[command, &["--help"]].concat());
        let text = String::from_utf8_lossy(&help.stdout).into_owned();
        assert!(help.status.success() && text.contains("--state-dir <DIR>"), "{command:?}");
    }
}

#[test]
fn both_programs_complete_in_every_shell() {
    for program in [env!("CARGO_BIN_EXE_graftd"), env!("CARGO_BIN_EXE_graftctl")] {
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let output = Command::new(program).args(["completions", shell]).output().unwrap();
            let name = PathBuf::from(program).file_name().unwrap().to_owned();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && text.contains(name.to_str().unwrap()), "{shell}");
        }
    }
}
