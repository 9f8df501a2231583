//! `graftctl` as a user runs it, against a daemon.

#![allow(clippy::disallowed_methods)] // files of a test need not survive a power cut

mod common;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

use common::daemon::{Daemon, photograph, reference};
use graftd::client::Picture;
use graftd::client::messages::new_sample::Content;
use graftd::client::messages::{NewSample, PredictRequest};
use graftd::vision::{Limits, Preprocessing, Preset, decode};
use serde_json::{Value, json};

const GRAFTCTL: &str = env!("CARGO_BIN_EXE_graftctl");

/// The user `nobody`.
const NOBODY: u32 = 65_534;

/// Runs `graftctl` with the daemon as its target; the runtime goes on serving meanwhile.
async fn graftctl(daemon: &Daemon, arguments: &[&str]) -> Output {
    run(Command::new(GRAFTCTL), daemon, arguments).await
}

async fn run(mut command: Command, daemon: &Daemon, arguments: &[&str]) -> Output {
    command.env("GRAFTCTL_TARGET", &daemon.address).args(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Standard output, which must be one JSON object a line.
fn objects(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn predict_prints_an_object_a_picture_in_order_and_fails_if_one_failed() {
    let daemon = Daemon::start().await;
    let picture = |name: &str| reference(&format!("pixels/{name}")).display().to_string();
    let [one, gone, two] = ["baseline.jpg", "gone.jpg", "grey.png"].map(picture);
    let output = graftctl(&daemon, &["predict", &one, &gone, &two, "--json", "--top-k", "2"]).await;
    assert_eq!(output.status.code(), Some(1));
    let objects = objects(&output);
    let images: Vec<&str> =
        objects.iter().map(|object| object["image"].as_str().unwrap()).collect();
    assert_eq!(images, [&one, &gone, &two]);
    let keys: Vec<&String> = objects[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["image", "backbone", "predictions", "timings_ms"]);
    assert_eq!(objects[0]["predictions"].as_array().unwrap().len(), 2);
    let best = objects[0]["predictions"][0].as_object().unwrap();
    assert_eq!(best.keys().collect::<Vec<_>>(), ["index", "id", "label", "probability", "logit"]);
    assert_eq!(objects[1]["error"]["code"], "NOT_FOUND");

    let output = graftctl(&daemon, &["predict", &one, &two]).await;
    assert!(output.status.success());
    assert!(text(&output).contains("baseline.jpg") && text(&output).contains(" %"));
}

#[tokio::test]
async fn a_folder_is_embedded_with_many_pictures_at_a_time() {
    let daemon = Daemon::start().await;
    let folder = tempfile::tempdir().unwrap();
    for index in 0..20 {
        std::fs::write(folder.path().join(format!("{index:02}.jpg")), photograph()).unwrap();
    }
    let folder = folder.path().to_str().unwrap();
    // More at a time than the queue holds: what is refused is sent again.
    let output = graftctl(&daemon, &["embed", folder, "--json", "--concurrency", "8"]).await;
    assert!(output.status.success(), "{output:?}");
    let objects = objects(&output);
    assert_eq!(objects.len(), 20);
    for (index, object) in objects.iter().enumerate() {
        assert!(object["image"].as_str().unwrap().ends_with(&format!("{index:02}.jpg")));
        assert_eq!(object["embedding"].as_array().unwrap().len(), 12);
    }
}

/// Stores pictures of two classes that the network knows, and one of a class that it does not know.
async fn teach(daemon: &Daemon, pictures: &[&str]) {
    let client = daemon.client().await;
    let known = ["ant", "bee"].into_iter().flat_map(|label| {
        pictures.iter().enumerate().map(move |(at, name)| (label, format!("{label}/{at}"), *name))
    });
    let unknown = ("unicorn", "unicorn/0".to_string(), pictures[0]);
    for (label, id, name) in known.chain([unknown]) {
        let bytes = std::fs::read(reference(name)).unwrap();
        let sample = NewSample {
            dataset: "insects".into(),
            id,
            labels: vec![label.into()],
            content: PredictRequest::from(Picture::from_bytes(bytes)).image.map(Content::Image),
            ..NewSample::default()
        };
        client.add_sample(sample).await.unwrap();
    }
}

#[tokio::test]
async fn a_dataset_is_audited_in_a_table_in_json_and_on_a_contact_sheet() {
    let daemon = Daemon::start().await;
    let pictures = ["baseline.jpg", "grey.png", "orientation-6.jpg"].map(|p| format!("pixels/{p}"));
    teach(&daemon, &pictures.each_ref().map(String::as_str)).await;
    let folder = tempfile::tempdir().unwrap();
    let sheet = folder.path().join("sheet.html");
    let audit = ["audit", "--dataset", "insects", "--backbone", "logits"];

    let on_sheet = ["--out", sheet.to_str().unwrap()];
    let output = graftctl(&daemon, &[&audit[..], &on_sheet[..]].concat()).await;
    assert_eq!(output.status.code(), Some(1), "a class failed: {output:?}");
    for part in ["at the border", "ant/", "bee/", "unicorn failed: no class has the label"] {
        assert!(text(&output).contains(part), "{}", text(&output));
    }
    let page = std::fs::read_to_string(&sheet).unwrap();
    let count = |what: &str| page.matches(what).count();
    assert_eq!((count("<h2>"), count("data:image/bmp"), count("data:image/jpeg")), (3, 3, 6));
    assert!(page.contains("<figcaption>bee/0: taken for "), "{page}");

    let in_json = ["--json", "--samples-per-class", "2"];
    let output = graftctl(&daemon, &[&audit[..], &in_json[..]].concat()).await;
    let of = |object: &Value| json!([object["class"], object["images"], object["failed"]]);
    let found: Vec<Value> = objects(&output).iter().map(of).collect();
    assert_eq!(found, [json!(["ant", 2, 0]), json!(["bee", 2, 0]), json!(["unicorn", 0, 1])]);
    assert_eq!(objects(&output)[0]["deviating"].as_array().unwrap().len(), 2);
    let side = |name: &str| objects(&output)[0][name].as_u64().unwrap() as usize;
    let cells = objects(&output)[0]["mean_map"].as_array().unwrap().len();
    assert_eq!(cells, side("height") * side("width"));

    let output = graftctl(&daemon, &["audit", "--dataset", "nothing"]).await;
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("nothing"), "{message}");
}

#[tokio::test]
async fn a_difference_is_explained_with_both_its_classes_and_overlays_keep_apart() {
    let daemon = Daemon::start().await;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.d");
    std::fs::create_dir(&out).unwrap();
    let mut pictures = Vec::new();
    for parent in ["a", "b"] {
        std::fs::create_dir(folder.path().join(parent)).unwrap();
        let picture = folder.path().join(parent).join("x.jpg");
        std::fs::write(&picture, photograph()).unwrap();
        pictures.push(picture.display().to_string());
    }
    let explain = ["explain", &pictures[0], &pictures[1], "--class", "0-1"];
    let overlay = ["--overlay", out.to_str().unwrap()];
    let output = graftctl(&daemon, &[&explain[..], &overlay[..]].concat()).await;
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output).contains("ant rather than bee"), "{}", text(&output));
    for name in ["x.png", "x-2.png"] {
        assert!(std::fs::read(out.join(name)).unwrap().starts_with(b"\x89PNG"), "{name}");
    }
    let output = graftctl(&daemon, &[&explain[..], &["--json"]].concat()).await;
    for found in objects(&output) {
        let most = found["raw"].as_array().unwrap().iter().filter_map(Value::as_f64);
        let most = most.fold(0.0_f64, f64::max);
        assert_eq!(found["has_positive_evidence"], most > 0.0);
        assert_eq!(found["peak"].is_array() && found["box_energy"].is_number(), most > 0.0);
    }
    let jpeg = out.join("one.jpg");
    let one = ["explain", &pictures[0], "--overlay", jpeg.to_str().unwrap()];
    let small = [&one[..], &["--longest-side", "12"]].concat();
    assert!(graftctl(&daemon, &small).await.status.success());
    let file = std::fs::read(&jpeg).unwrap();
    assert!(file.starts_with(b"\xff\xd8"), "a JPEG file");
    let drawn = decode(&file, &Limits::default()).unwrap();
    assert_eq!((drawn.width, drawn.height), (12, 8));
    let gif = ["explain", &pictures[0], "--overlay", "o.gif"];
    assert_eq!(graftctl(&daemon, &gif).await.status.code(), Some(1));
}

#[tokio::test]
async fn a_map_without_evidence_is_zero_and_a_person_is_told_so() {
    let daemon = Daemon::start().await;
    let picture = reference("pixels/baseline.jpg").display().to_string();
    // A class differs in nothing from itself.
    let explain = ["explain", &picture, "--class", "1-1"];
    let output = graftctl(&daemon, &explain).await;
    assert!(output.status.success(), "{output:?}");
    let said = text(&output);
    assert!(said.contains("bee rather than bee: no evidence for it; the map is zero"), "{said}");
    let found = &objects(&graftctl(&daemon, &[&explain[..], &["--json"]].concat()).await)[0];
    assert!(found["map"].as_array().unwrap().iter().all(|value| value.as_f64() == Some(0.0)));
    assert_eq!((&found["has_positive_evidence"], &found["box"]), (&json!(false), &Value::Null));
}

#[tokio::test]
async fn watch_answers_what_is_in_the_folder_and_ends_after_the_count() {
    let daemon = Daemon::start().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("new.jpg"), photograph()).unwrap();
    let folder = folder.path().to_str().unwrap();
    let arguments = ["watch", folder, "--existing", "--count", "1", "--interval", "10", "--json"];
    let output = graftctl(&daemon, &arguments).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(objects(&output)[0]["backbone"], "logits");
}

#[tokio::test]
async fn watch_goes_on_after_a_picture_that_cannot_be_read_and_fails_at_its_end() {
    let daemon = Daemon::start().await;
    let folder = tempfile::tempdir().unwrap();
    let locked = folder.path().join("locked.jpg");
    std::fs::write(&locked, photograph()).unwrap();
    std::fs::write(folder.path().join("open.jpg"), photograph()).unwrap();
    for (path, mode) in [(folder.path(), 0o755), (&locked, 0o000)] {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    // Root may read everything: the program has to be somebody else.
    let user = || {
        let mut command = Command::new(GRAFTCTL);
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    };
    if !user().arg("--version").output().is_ok_and(|output| output.status.success()) {
        println!("skipped: another user cannot run {GRAFTCTL}");
        return;
    }
    let folder = folder.path().to_str().unwrap();
    let arguments = ["watch", folder, "--existing", "--count", "2", "--interval", "10", "--json"];
    let output = run(user(), &daemon, &arguments).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let (answered, failed): (Vec<Value>, Vec<Value>) =
        objects(&output).into_iter().partition(|object| object["error"].is_null());
    assert_eq!(answered[0]["backbone"], "logits");
    assert_eq!(failed[0]["image"], locked.to_str().unwrap());
}

#[tokio::test]
async fn names_that_stand_for_no_picture_fail_and_the_others_are_answered() {
    let daemon = Daemon::start().await;
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().display().to_string();
    let pattern = format!("{empty}/nomatch*.jpg");
    let good = reference("pixels/baseline.jpg").display().to_string();
    let output = graftctl(&daemon, &["predict", &good, &pattern, &empty, "--json"]).await;
    assert_eq!(output.status.code(), Some(1));
    let objects = objects(&output);
    let images: Vec<&Value> = objects.iter().map(|object| &object["image"]).collect();
    assert_eq!(images, [&good, &pattern, &empty]);
    assert_eq!(objects[0]["backbone"], "logits");
    for failed in &objects[1..] {
        assert_eq!(failed["error"]["code"], "NOT_FOUND");
    }
}

#[tokio::test]
async fn a_backbone_is_uploaded_with_everything_that_can_be_said_of_it_and_replaced() {
    let daemon = Daemon::start().await;
    let model = reference("tiny/logits.onnx").display().to_string();
    let upload = ["backbones", "upload", &model, "--id", "mine", "--json"];
    let sha256 = graftd::base::digest::Digest::of(&std::fs::read(&model).unwrap()).to_string();
    let said = [
        "--scale",
        "1/255",
        "--mean",
        "-0.5,0.25,1",
        "--std",
        "0.5",
        "--channels",
        "bgr",
        "--name",
        "My own",
        "--source",
        "here",
        "--licence",
        "MIT",
        "--sha256",
        &sha256,
        "--embedding",
        "relu1",
        "--waists",
        "relu1,conv1",
    ];
    let output = graftctl(&daemon, &[&upload[..], &said[..]].concat()).await;
    assert!(output.status.success(), "{output:?}");
    let object = &objects(&output)[0];
    let told = ["name", "source", "licence", "sha256"].map(|key| object[key].clone());
    assert_eq!(told, [json!("My own"), json!("here"), json!("MIT"), json!(sha256)]);
    assert_eq!(object["embedding_width"], 8);
    let found = daemon.client().await.get_backbone("mine").await.unwrap();
    let preprocessing = found.backbone.unwrap().preprocessing.unwrap();
    assert_eq!(preprocessing.mean, [-0.5, 0.25, 1.0]);
    assert_eq!((preprocessing.std, preprocessing.channels), (vec![0.5; 3], 2));
    assert_eq!(preprocessing.scale, 1.0 / 255.0);
    let waists = found.layers.iter().filter(|layer| layer.waist).map(|layer| layer.name.as_str());
    assert_eq!(waists.collect::<Vec<_>>(), ["conv1", "relu1"]);

    let again = ["--preset", "unit"];
    let refused = graftctl(&daemon, &[&upload[..], &again[..]].concat()).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let replaced = graftctl(&daemon, &[&upload[..], &again[..], &["--replace"]].concat()).await;
    assert!(replaced.status.success(), "{replaced:?}");
    assert_eq!(objects(&replaced)[0]["embedding_width"], 12);
    let incomplete = [&upload[..], &["--replace", "--scale", "1"]].concat();
    let incomplete = graftctl(&daemon, &incomplete);
    let message = String::from_utf8_lossy(&incomplete.await.stderr).into_owned();
    assert!(message.contains("--preset"), "{message}");
}

#[tokio::test]
async fn a_preset_is_the_same_from_afar_as_on_the_device() {
    let daemon = Daemon::start().await;
    let model = reference("tiny/logits.onnx").display().to_string();
    let presets = [Preset::Imagenet, Preset::Tf, Preset::Caffe, Preset::Unit];
    for (name, preset) in ["imagenet", "tf", "caffe", "unit"].into_iter().zip(presets) {
        let upload = ["backbones", "upload", &model, "--id", name, "--preset", name];
        let output = graftctl(&daemon, &upload).await;
        assert!(output.status.success(), "{output:?}");
        let live = &daemon.engine.snapshot().backbones[name];
        let size = live.preprocessing.size;
        assert_eq!(live.preprocessing, Preprocessing::preset(preset, size), "{name}");
    }
}

#[tokio::test]
async fn backbones_and_device_are_told_to_people_and_programs() {
    let daemon = Daemon::start().await;
    let listed = objects(&graftctl(&daemon, &["backbones", "--json"]).await);
    let ids: Vec<&Value> = listed.iter().map(|object| &object["id"]).collect();
    assert_eq!(ids, ["features", "logits", "softmax"]);
    assert!(text(&graftctl(&daemon, &["backbones", "show", "logits"]).await).contains("relu2"));
    let device = objects(&graftctl(&daemon, &["device", "--json"]).await);
    assert_eq!(device[0]["workers"], 1);
    assert!(text(&graftctl(&daemon, &["device"]).await).contains("memory"));
}

#[tokio::test]
async fn a_device_that_cannot_be_reached_is_an_error_that_says_what_to_do() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let mut command = Command::new(env!("CARGO_BIN_EXE_graftctl"));
    let output = command.args(["--target", &address, "device"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains(&address) && message.contains("graftd serve"), "{message}");
}
