//! `graftctl samples`, `train`, `jobs` and `heads`, as a user runs them against a daemon.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::colours::{COLOURS, class_folder, picture, predict, push_colours};
use crate::common::daemon::Daemon;

async fn graftctl(daemon: &Daemon, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_graftctl"));
    command.env("GRAFTCTL_TARGET", &daemon.address).args(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// What a command tells; it must succeed.
async fn said(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = graftctl(daemon, arguments).await;
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The objects that it prints, one a line.
async fn objects(daemon: &Daemon, arguments: &[&str]) -> Vec<Value> {
    let text = said(daemon, &[arguments, &["--json"]].concat()).await;
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn refused(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = graftctl(daemon, arguments).await;
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn a_device_is_taught_judged_and_its_head_moved_by_graftctl_alone() {
    let daemon = Daemon::start_roomy().await;
    let folder = class_folder(25);
    let push = ["samples", "push", path(folder.path()), "--dataset", "colours"];
    assert_eq!(objects(&daemon, &push).await[0]["stored"], 75);
    let train = ["train", "--dataset", "colours", "--head", "colour", "--kind", "lda"];
    let text = said(&daemon, &train).await;
    assert!(text.contains("colour@1") && text.contains("right (95 % interval"), "{text}");
    assert!(["blue", "green", "red"].iter().all(|label| text.contains(label)), "{text}");
    let again = objects(&daemon, &train).await.remove(0);
    assert_eq!((&again["version"], &again["state"]), (&2.into(), &"succeeded".into()));
    assert!(again["report"]["live_accuracy"].as_f64().unwrap() > 0.8, "{again}");
    let message = again["promotion_message"].as_str().unwrap();
    assert!(message.contains("on the same"), "{message}");

    let report = &again["report"];
    assert!(report["per_class"]["red"]["f1"].as_f64().unwrap() > 0.8, "{report}");
    assert_eq!(report["confusion"].as_array().unwrap().len(), 3);
    assert!(!report["learning_curve"].as_array().unwrap().is_empty());
    assert!(text.contains("F1") && text.contains("columns: what it is taken for"), "{text}");
    assert!(text.contains("calibration error"), "{text}");

    let jobs = objects(&daemon, &["jobs"]).await;
    assert_eq!((jobs.len(), &jobs[0]["job"]), (2, &again["job"]));
    let other = ["train", "--dataset", "colours", "--head", "other", "--kind", "lda"];
    let other = objects(&daemon, &[&other[..], &["--no-learning-curve"]].concat()).await.remove(0);
    assert_eq!(other["report"]["learning_curve"], serde_json::json!([]));
    let restarted = objects(&daemon, &["jobs", "restart", "1"]).await.remove(0);
    let watched = ["jobs", "watch", restarted["job"].as_str().unwrap()];
    assert_eq!(objects(&daemon, &watched).await[0]["version"], 3);

    let evaluate = ["heads", "evaluate", "colour", "--dataset", "colours"];
    assert!(said(&daemon, &evaluate).await.contains("samples right"));
    let exported = tempfile::tempdir().unwrap();
    let [head, network] = ["head.safetensors", "colour.onnx"].map(|n| exported.path().join(n));
    said(&daemon, &["heads", "export", "colour@1", path(&head)]).await;
    said(&daemon, &["heads", "export", "colour", path(&network), "--format", "onnx"]).await;
    assert!(std::fs::metadata(&network).unwrap().len() > 1000);
    said(&daemon, &["heads", "import", path(&head), "--head", "moved", "--activate"]).await;
    let moved = objects(&daemon, &["heads"]).await;
    let moved = moved.iter().find(|head| head["head"] == "moved").unwrap();
    assert_eq!(moved["versions"][0]["kind"], "lda");
    assert!(moved["versions"][0]["accuracy"].as_f64().unwrap() > 0.8, "remembered: {moved}");
    let heads = said(&daemon, &["heads"]).await;
    assert!(heads.contains("colour") && heads.contains("moved"), "{heads}");
    let client = daemon.client().await;
    let answer = predict(&client, "moved", COLOURS[0].1, 500).await;
    assert_eq!(answer.predictions[0].label, "red");

    let delete = ["samples", "delete", "--dataset", "colours", "--label", "red"];
    assert_eq!(objects(&daemon, &delete).await[0]["deleted"], 25);
    let unknown = refused(&daemon, &["train", "--dataset", "absent", "--head", "x"]).await;
    assert!(unknown.contains("no dataset absent"), "{unknown}");
}

#[tokio::test]
async fn unsure_predictions_are_captured_looked_at_labelled_and_so_become_samples() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 20).await;
    said(&daemon, &["train", "--dataset", "colours", "--head", "colour"]).await;
    let configure = ["samples", "configure", "--dataset", "review"];
    let capture = ["--capture", "colour", "--capture-below", "1", "--capture-hourly", "1"];
    let configured = objects(&daemon, &[&configure[..], &capture].concat()).await.remove(0);
    assert_eq!(configured["settings"]["capture"]["hourly"], 1);
    let grey = |number| picture([120, 120, 120], number);
    for number in 0..3 {
        predict(&client, "colour", [120, 120, 120], number).await;
    }
    let queue = ["samples", "list", "--dataset", "review", "--unlabelled", "--captured"];
    let waiting = async {
        loop {
            let found = objects(&daemon, &queue).await;
            if !found.is_empty() {
                return found;
            }
        }
    };
    let patience = std::time::Duration::from_mins(1);
    let waiting = tokio::time::timeout(patience, waiting).await.unwrap();
    assert_eq!(waiting[0]["captured"]["head"], "colour@1");
    assert!(said(&daemon, &queue).await.contains("  (colour@1 thought "));
    let id = waiting[0]["id"].as_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("captured.png");
    said(&daemon, &["samples", "picture", "--dataset", "review", id, path(&file)]).await;
    let kept = std::fs::read(&file).unwrap();
    assert!((0..3).any(|number| grey(number) == kept), "the picture itself");
    said(&daemon, &["samples", "label", "--dataset", "review", id, "grey"]).await;
    // The budget of the hour is spent: nothing came after the first.
    assert!(objects(&daemon, &queue).await.is_empty());
    let datasets = objects(&daemon, &["samples", "datasets"]).await;
    let review = datasets.iter().find(|dataset| dataset["dataset"] == "review").unwrap();
    assert_eq!(review["labels"], serde_json::json!({"grey": 1}));
    let off = [&configure[..], &["--no-capture"]].concat();
    assert_eq!(objects(&daemon, &off).await[0]["settings"]["capture"], Value::Null);
}

#[tokio::test]
async fn what_a_dataset_keeps_and_how_much_is_set_and_what_no_flag_names_stays() {
    let daemon = Daemon::start_roomy().await;
    let configure = ["samples", "configure", "--dataset", "colours"];
    let first = [&configure[..], &["--keep", "thumbnails", "--max-samples", "5"]].concat();
    said(&daemon, &first).await;
    said(&daemon, &[&configure[..], &["--held-out", "0.35"]].concat()).await;
    let second = [&configure[..], &["--when-full", "drop-oldest"]].concat();
    let settings = objects(&daemon, &second).await.remove(0)["settings"].clone();
    let expected = serde_json::json!({
        "keep": "thumbnails", "max_samples": 5, "max_bytes": 0, "when_full": "drop_oldest",
        "held_out": 0.35, "capture": null,
    });
    assert_eq!(settings, expected);
    let folder = class_folder(3);
    let shown = said(&daemon, &second).await;
    for line in
        ["keeps thumbnails", "at most 5 samples", "when full: drop oldest", "holds 35 % out"]
    {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    let push = ["samples", "push", path(folder.path()), "--dataset", "colours"];
    let pushed = said(&daemon, &push).await;
    assert!(pushed.contains("9 samples were stored in colours"), "{pushed}");
    assert!(pushed.contains("5 are left"), "{pushed}");
    assert_eq!(objects(&daemon, &["samples", "datasets"]).await[0]["samples"], 5);
}

#[tokio::test]
async fn deleting_an_id_that_names_nothing_is_an_error_that_names_it_and_deletes_nothing() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 1).await;
    let delete = ["samples", "delete", "--dataset", "colours"];
    let told = refused(&daemon, &[&delete[..], &["red/1000", "red/nowhere"]].concat()).await;
    assert!(told.contains("red/nowhere"), "{told}");
    assert_eq!(client.list_datasets().await.unwrap()[0].sample_count, 3);
    assert_eq!(objects(&daemon, &[&delete[..], &["red/1000"]].concat()).await[0]["deleted"], 1);
}
