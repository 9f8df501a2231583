//! The commands that learn without a daemon, as a user runs them: `train`, `evaluate`, `dataset
//! report`, `store`.

#![allow(clippy::disallowed_methods)] // files of a test need not survive a power cut

use std::path::Path;
use std::process::{Command, Output};

use graftd::engine::learning::TrainingOptions;
use graftd::heads::{Head, Provenance};
use graftd::train::NoveltyMethod;
use serde_json::{Map, Value};

use crate::colours::{COLOURS, class_folder, picture};
use crate::program::GRAFTD;

struct Device {
    state: tempfile::TempDir,
}

impl Device {
    fn new() -> Self {
        Self { state: tempfile::tempdir().unwrap() }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(GRAFTD);
        command.args(arguments).arg("--state-dir").arg(self.state.path()).output().unwrap()
    }

    /// The one object that a command prints; its exit status must be this.
    fn object(&self, arguments: &[&str], status: i32) -> Map<String, Value> {
        let output = self.run(&[arguments, &["--json"]].concat());
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(status), "{out}{err}");
        assert_eq!(out.lines().count(), 1, "{out}");
        let Ok(Value::Object(object)) = serde_json::from_str(&out) else { panic!("{out}") };
        object
    }

    /// What a command tells a person; it must succeed.
    fn said(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Why a command did nothing.
    fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{}", text(&output.stdout));
        text(&output.stderr)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn keys(object: &Map<String, Value>) -> Vec<&str> {
    object.keys().map(String::as_str).collect()
}

#[test]
fn train_prints_the_object_of_the_contract_and_keeps_to_the_folds_that_it_is_given() {
    let (device, folder) = (Device::new(), class_folder(12));
    let folds = folder.path().join("folds.json");
    let assigned: Map<String, Value> = COLOURS
        .iter()
        .flat_map(|(label, _)| (0..12).map(move |n| (format!("{label}/{n}.png"), (n % 4).into())))
        .collect();
    std::fs::write(&folds, Value::Object(assigned.clone()).to_string()).unwrap();
    let saved = folder.path().join("head.safetensors");
    let train = ["train", path(folder.path()), "--folds-file", path(&folds)];
    let object = device.object(&[&train[..], &["--kind", "softmax"]].concat(), 0);
    let contract = [
        "kind",
        "classes",
        "accuracy",
        "folds",
        "per_class",
        "embedding_seconds",
        "fit_seconds",
        "temperature",
        "ece_before",
        "ece_after",
    ];
    assert_eq!(keys(&object), contract);
    assert_eq!(object["kind"], "softmax");
    assert_eq!(object["classes"], serde_json::json!(["blue", "green", "red"]));
    let folds_of = |object: &Map<String, Value>| -> Vec<f64> {
        object["folds"].as_array().unwrap().iter().map(|fold| fold.as_f64().unwrap()).collect()
    };
    let found = folds_of(&object);
    let mean = found.iter().sum::<f64>() / 4.0;
    assert!(found.len() == 4 && (object["accuracy"].as_f64().unwrap() - mean).abs() < 1e-9);
    assert!(mean > 0.9, "{found:?}");
    // The same again is the same head, byte for byte.
    let save = || {
        let save = ["--kind", "prototype", "--seed", "7", "--save", path(&saved)];
        device.object(&[&train[..], &save].concat(), 0);
        std::fs::read(&saved).unwrap()
    };
    assert_eq!(save(), save());
    let own_folds = ["train", path(folder.path()), "--folds", "2", "--kind"];
    for kind in ["auto", "slda", "mlp"] {
        let object = device.object(&[&own_folds[..], &[kind]].concat(), 0);
        assert_eq!(folds_of(&object).len(), 2);
        assert!(kind == "auto" || object["kind"] == kind, "{object:?}");
    }
    let mut short = assigned;
    short.remove("red/3.png");
    std::fs::write(&folds, Value::Object(short).to_string()).unwrap();
    let refusal = device.refusal(&train);
    assert!(refusal.contains("red/3.png"), "{refusal}");
}

#[test]
fn evaluate_judges_a_saved_head_and_compares_it_with_another() {
    let (device, folder) = (Device::new(), class_folder(10));
    let saved = ["lda", "knn"].map(|kind| {
        let file = folder.path().join(format!("{kind}.head"));
        let train = ["train", path(folder.path()), "--kind", kind, "--save", path(&file)];
        let said = device.said(&[&train[..], &["--balance", "--novelty", "energy"]].concat());
        // In the shape in which a device keeps what it was trained with, so that it can be shown there.
        let head = Head::from_bytes(&std::fs::read(&file).unwrap()).unwrap();
        let Provenance { options, .. } = head.provenance();
        let expected = TrainingOptions {
            kind: Some(head.kind()),
            balance_classes: true,
            novelty: Some(NoveltyMethod::Energy),
            ..TrainingOptions::default()
        };
        assert_eq!(*options, serde_json::to_value(&expected).unwrap());
        let scores = head.provenance().scores().unwrap();
        assert!(scores.accuracy.unwrap() > 0.8 && scores.folds.len() == 5, "{scores:?}");
        assert!(said.contains("% right on photographs not shown before"), "{said}");
        assert!(said.contains("truth") && said.contains("#1"), "a confusion matrix: {said}");
        file
    });
    let evaluate = ["evaluate", path(folder.path()), "--head", path(&saved[0])];
    let object = device.object(&[&evaluate[..], &["--against", path(&saved[1])]].concat(), 0);
    assert_eq!((&object["kind"], &object["samples"]), (&"lda".into(), &30.into()));
    assert!(object["accuracy"].as_f64().unwrap() > 0.9, "{object:?}");
    assert!(object["comparison"]["p_value"].as_f64().is_some(), "{object:?}");
    assert!(device.said(&evaluate).contains("called unknown"));
    std::fs::write(&saved[1], b"no head").unwrap();
    let refusal = device.refusal(&["evaluate", path(folder.path()), "--head", path(&saved[1])]);
    assert!(refusal.contains("knn.head"), "{refusal}");
}

#[test]
fn a_class_of_one_picture_is_learnt_and_said_to_be_judged_wrong() {
    let (device, folder) = (Device::new(), class_folder(10));
    std::fs::create_dir(folder.path().join("rare")).unwrap();
    let grey = picture([120, 120, 120], 1);
    std::fs::write(folder.path().join("rare/only.png"), grey).unwrap();
    let train = ["train", path(folder.path()), "--kind", "lda"];
    let object = device.object(&train, 0);
    assert_eq!(object["absent"], serde_json::json!(["rare"]));
    assert_eq!(object["classes"].as_array().unwrap().len(), 4);
    assert_eq!(object["per_class"]["rare"]["recall"], 0.0);
    assert!(object["accuracy"].as_f64().unwrap() > 0.8, "{object:?}");
    let said = device.said(&train);
    assert!(said.contains("rare: all pictures of some fold"), "{said}");
}

#[test]
fn the_dataset_report_names_the_photographs_that_are_to_be_put_right() {
    let (device, folder) = (Device::new(), class_folder(25));
    let add = |name: &str, bytes: Vec<u8>| std::fs::write(folder.path().join(name), bytes).unwrap();
    add("red/wrong.png", picture(COLOURS[2].1, 77));
    add("green/copy.png", picture(COLOURS[2].1, 3));
    let report = ["dataset", "report", path(folder.path())];
    let object = device.object(&report, 0);
    let contract = [
        "counts",
        "imbalance",
        "few_samples",
        "duplicates",
        "likely_wrong_labels",
        "poor_photographs",
        "most_confused",
        "accuracy",
    ];
    assert_eq!(keys(&object), contract);
    let all = |key: &str| object[key].as_array().unwrap();
    let wrong = all("likely_wrong_labels").iter().find(|found| found["sample"] == "red/wrong.png");
    assert_eq!(wrong.unwrap()["likely"], "blue");
    let copy = all("duplicates").iter().find(|found| {
        [&found["first"], &found["second"]].contains(&&Value::from("green/copy.png"))
    });
    assert_eq!(copy.unwrap()["across_classes"], true);
    assert!(all("poor_photographs").iter().any(|found| found["flaw"] == "tiny"));
    let said = device.said(&report);
    assert!(said.contains("DIFFERENT LABELS") && said.contains("rather blue"), "{said}");
}

#[test]
fn what_is_imported_can_be_counted_verified_exported_and_imported_elsewhere() {
    let (device, folder) = (Device::new(), class_folder(4));
    let import = |device: &Device, source: &str| {
        let object = device.object(&["store", "import", "--dataset", "colours", source], 0);
        (object["added"].as_u64().unwrap(), object["duplicates"].as_u64().unwrap())
    };
    assert_eq!(import(&device, path(folder.path())), (12, 0));
    assert_eq!(import(&device, path(folder.path())), (0, 12));
    let stats = device.object(&["store", "stats"], 0);
    assert_eq!(stats["datasets"][0]["samples"], 12);
    assert_eq!(
        stats["datasets"][0]["labels"],
        serde_json::json!({"blue": 4, "green": 4, "red": 4})
    );
    assert_eq!(device.object(&["store", "verify"], 0)["sound"], true);
    assert!(device.said(&["store", "stats"]).contains("dataset colours: 12 samples"));

    let target = tempfile::tempdir().unwrap();
    for name in ["folder", "archive.tar"] {
        let target = target.path().join(name);
        let export = ["store", "export", "--dataset", "colours", path(&target)];
        assert_eq!(device.object(&export, 0)["images"], 12);
        let elsewhere = Device::new();
        assert_eq!(import(&elsewhere, path(&target)), (12, 0), "{name}");
        assert_eq!(elsewhere.object(&["store", "verify"], 0)["images"], 12);
    }
    // How large the photographs are is noted at import.
    let lines = std::fs::read_to_string(target.path().join("folder/samples.jsonl")).unwrap();
    assert!(lines.lines().all(|line| line.contains(r#""width":24"#)), "{lines}");
    // The pictures of an export are a folder per class again.
    let images = target.path().join("folder/images");
    assert_eq!(import(&Device::new(), path(&images)), (12, 0));

    // A tar of a plain folder per class.
    let plain = target.path().join("plain.tar");
    let packed = Command::new("tar")
        .args(["--create", "--file", path(&plain), "--directory", path(folder.path()), "."])
        .status();
    if packed.is_ok_and(|status| status.success()) {
        assert_eq!(import(&Device::new(), path(&plain)), (12, 0));
    } else {
        println!("skipped: there is no tar here");
    }
    let refusal = device.refusal(&["store", "export", "--dataset", "absent", path(&plain)]);
    assert!(refusal.contains("absent"), "{refusal}");
}

#[test]
fn a_picture_that_does_not_decode_is_refused_by_name_at_import_and_all_others_are_taken() {
    let (device, folder) = (Device::new(), class_folder(4));
    let deep = folder.path().join("red/shift 2");
    std::fs::create_dir(&deep).unwrap();
    std::fs::write(deep.join("late.png"), picture(COLOURS[0].1, 77)).unwrap();
    std::fs::write(folder.path().join("red/broken.jpg"), b"no picture").unwrap();
    // The beginning of a picture alone.
    let whole = picture(COLOURS[1].1, 78);
    std::fs::write(folder.path().join("green/cut.png"), &whole[..whole.len() / 2]).unwrap();
    let import = ["store", "import", "--dataset", "colours", path(folder.path())];
    let object = device.object(&import, 1);
    let counts = ["added", "duplicates", "refused"].map(|key| object[key].as_u64().unwrap());
    assert_eq!(counts, [13, 0, 2]);
    let said = device.refusal(&import);
    for id in ["red/broken.jpg: ", "green/cut.png: "] {
        assert!(said.contains(id), "{said}");
    }
    let stats = device.object(&["store", "stats"], 0);
    let labels = serde_json::json!({"blue": 4, "green": 4, "red": 5});
    assert_eq!(stats["datasets"][0]["labels"], labels);
}

#[test]
fn a_flipped_byte_stops_neither_statistics_nor_an_export_and_is_told_with_status_1() {
    let (device, folder) = (Device::new(), class_folder(4));
    let import = ["store", "import", "--dataset", "colours", path(folder.path())];
    device.object(&import, 0);
    let database = device.state.path().join("graftd.sqlite");
    let mut bytes = std::fs::read(&database).unwrap();
    let label = br#"["green"]"#;
    let at = bytes.windows(label.len()).position(|window| window == label).unwrap();
    bytes[at] ^= 0x20; // no JSON any more
    std::fs::write(&database, bytes).unwrap();
    let stats = device.object(&["store", "stats"], 0);
    assert_eq!((&stats["damaged"], &stats["datasets"][0]["samples"]), (&1.into(), &11.into()));
    assert!(device.said(&["store", "stats"]).contains("1 damaged rows"));
    assert_eq!(device.object(&["store", "verify"], 1)["fault_count"], 1);
    let target = device.state.path().join("export");
    let export = ["store", "export", "--dataset", "colours", path(&target)];
    let exported = device.object(&export, 1);
    assert_eq!((&exported["samples"], &exported["left_out"]), (&11.into(), &1.into()));
    let target = device.state.path().join("again.tar");
    let said = device.refusal(&["store", "export", "--dataset", "colours", path(&target)]);
    assert!(said.contains("sample row") && said.contains("left out"), "{said}");
}
