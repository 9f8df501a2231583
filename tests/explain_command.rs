//! `graftd explain`, `audit` and `predict` as a script sees them, on a tiny network.

#![allow(clippy::disallowed_methods)] // files of a test need not survive a power cut

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use graftd::heads::{Classifier, Head, Kind, Linear, Matrix, Provenance, Transform};
use graftd::vision::{ColorMap, ImageFormat, Limits, Picture, decode, encode};
use serde_json::Value;

fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name)
}

fn graftd(state: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_graftd"));
    command.args(arguments).arg("--state-dir").arg(state).output().unwrap()
}

/// The objects that a command prints.
fn objects(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A state folder with the tiny network of four classes.
fn state() -> tempfile::TempDir {
    let state = tempfile::tempdir().unwrap();
    let labels = state.path().join("labels.txt");
    std::fs::write(&labels, "ant\nbee\ncat\ncat\n").unwrap();
    let model = reference("tiny/logits.onnx");
    let (model, labels) = (model.to_str().unwrap(), labels.to_str().unwrap());
    let added = ["models", "add", model, "--id", "tiny", "--preset", "unit", "--labels", labels];
    let output = graftd(state.path(), &added);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    state
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[test]
fn explain_prints_one_object_an_image_and_a_failure_in_its_place() {
    let state = state();
    let (photograph, overlay) = (reference("pixels/baseline.jpg"), state.path().join("out"));
    std::fs::create_dir(&overlay).unwrap();
    let (good, bad) = (photograph.to_str().unwrap(), state.path().join("labels.txt"));
    let flags = ["--json", "--overlay", overlay.to_str().unwrap(), "--class", "1"];
    let images = ["explain", good, bad.to_str().unwrap(), good];
    let output = graftd(state.path(), &[&images[..], &flags[..]].concat());
    assert_eq!(output.status.code(), Some(1), "one image failed");
    let objects = objects(&output);
    assert_eq!(objects.len(), 3);
    assert!(objects[1]["error"]["code"].is_string() && objects[1]["image"].is_string());
    assert_eq!(objects[0]["map"], objects[2]["map"]);
    let most = numbers(&objects[0]["raw"]).into_iter().fold(0.0_f64, f64::max);
    assert_eq!(objects[0]["has_positive_evidence"], most > 0.0);
    let keys: Vec<&str> = objects[0].as_object().unwrap().keys().map(String::as_str).collect();
    let contract = ["image", "backbone", "layer", "method", "class", "height", "width"];
    assert_eq!(keys[..7], contract);
    assert_eq!(keys[7..11], ["map", "raw", "box", "timings_ms"]);
    let found = &objects[0];
    assert_eq!(found["class"], serde_json::json!({ "index": 1, "label": "bee" }));
    assert_eq!((&found["backbone"], &found["method"]), (&"tiny".into(), &"grad-cam".into()));
    let (map, raw) = (numbers(&found["map"]), numbers(&found["raw"]));
    let cells = found["height"].as_u64().unwrap() * found["width"].as_u64().unwrap();
    assert_eq!((map.len() as u64, raw.len() as u64), (cells, cells));
    let most = raw.iter().copied().fold(0.0_f64, f64::max);
    for (value, raw) in map.iter().zip(&raw) {
        let expected = if most > 0.0 { raw.max(0.0) / most } else { 0.0 };
        assert!((value - expected).abs() < 1e-6, "map = max(raw, 0) / max(raw)");
    }
    if most > 0.0 {
        assert_eq!(numbers(&found["box"]).len(), 4);
    }
    for name in ["baseline.png", "baseline-2.png"] {
        let drawn = std::fs::read(overlay.join(name)).unwrap();
        assert!(drawn.starts_with(b"\x89PNG"), "{name}");
    }
    // A file in whose place there is a folder fails alone.
    std::fs::create_dir(overlay.join("grey.png")).unwrap();
    let other = reference("pixels/grey.jpg");
    let images = ["explain", other.to_str().unwrap(), good];
    let output = graftd(state.path(), &[&images[..], &flags[..]].concat());
    assert_eq!(output.status.code(), Some(1));
    let objects = self::objects(&output);
    assert!(objects[0]["error"]["message"].as_str().unwrap().contains("cannot write"));
    assert!(objects[1]["map"].is_array());
    for (flag, value) in [("--overlay", "o.gif"), ("--strength", "7"), ("--longest-side", "0")] {
        let output = graftd(state.path(), &["explain", good, flag, value]);
        assert!(!output.status.success() && output.stdout.is_empty(), "{flag} {value}");
    }
}

#[test]
fn a_person_is_told_which_evidence_was_looked_for() {
    let state = state();
    let photograph = reference("pixels/baseline.jpg");
    let of = |class: &str, evidence: &str| {
        let explain = ["explain", photograph.to_str().unwrap(), "--class", class];
        let output = graftd(state.path(), &[&explain[..], &["--evidence", evidence]].concat());
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // What speaks for one class rather than another speaks against the other rather than the one.
    let (evidence_for, against) = (of("1-0", "for"), of("0-1", "against"));
    assert!(evidence_for.contains("bee rather than ant: looked at x"), "{evidence_for}");
    assert!(against.contains("ant rather than bee: evidence against it at x"), "{against}");
}

#[test]
fn a_map_without_evidence_is_zero_says_so_and_gets_no_verdict_of_sanity() {
    let state = state();
    let photograph = reference("pixels/baseline.jpg");
    // A class differs in nothing from itself.
    let explain = ["explain", photograph.to_str().unwrap(), "--class", "1-1", "--sanity"];
    let output = graftd(state.path(), &explain);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let zero = "bee rather than bee: nothing in the picture speaks for it; the map is zero";
    for part in [zero, "no verdict: the map is the same everywhere"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("changed") && !text.contains("correlation"), "{text}");
    let found = &objects(&graftd(state.path(), &[&explain[..], &["--json"]].concat()))[0];
    for map in ["map", "raw"] {
        assert!(numbers(&found[map]).iter().all(|value| *value == 0.0), "{map}");
    }
    assert_eq!(found["has_positive_evidence"], false);
    assert!(found["box"].is_null());
    assert_eq!(found["sanity"], serde_json::json!([]));
    let verdict = &found["sanity_verdict"];
    assert!(verdict["changed"].is_null() && verdict["rank_correlation"].is_null(), "{verdict}");
}

#[test]
fn an_overlay_is_written_as_jpeg_where_its_name_says_so() {
    let state = state();
    let photograph = reference("pixels/baseline.jpg");
    let seen = decode(&std::fs::read(&photograph).unwrap(), &Limits::default()).unwrap();
    for name in ["overlay.jpg", "overlay.JPEG"] {
        let overlay = state.path().join(name);
        let files = ["--overlay", overlay.to_str().unwrap(), "--method", "eigen-cam"];
        let explain = ["explain", photograph.to_str().unwrap()];
        let output = graftd(state.path(), &[&explain[..], &files[..]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let file = std::fs::read(&overlay).unwrap();
        assert!(file.starts_with(b"\xff\xd8"), "{name} is a JPEG file");
        let drawn = decode(&file, &Limits::default()).unwrap();
        assert_eq!((drawn.width, drawn.height), (seen.width, seen.height), "{name}");
        assert_ne!(drawn.pixels, seen.pixels, "{name}");
    }
}

#[test]
fn the_overlay_has_the_colours_asked_for_by_name() {
    let state = state();
    let overlay = state.path().join("overlay.png");
    let photograph = reference("pixels/baseline.jpg");
    let mut seen = Vec::new();
    for name in ["jet", "turbo", "viridis", "inferno", "magma", "grey"] {
        let colors: ColorMap = name.parse().unwrap();
        let flags = ["--colors", name, "--strength", "1", "--resize", "squash"];
        let file = ["--overlay", overlay.to_str().unwrap(), "--longest-side", "12"];
        let explain = ["explain", photograph.to_str().unwrap(), "--method", "eigen-cam"];
        let output = graftd(state.path(), &[&explain[..], &flags[..], &file[..]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let drawn = decode(&std::fs::read(&overlay).unwrap(), &Limits::default()).unwrap();
        assert_eq!((drawn.width, drawn.height), (12, 8), "{name}");
        let palette = colors.palette();
        assert!(drawn.pixels.as_chunks().0.iter().all(|pixel| palette.contains(pixel)), "{name}");
        assert!(!seen.contains(&drawn.pixels), "{name} looks like another");
        seen.push(drawn.pixels);
    }
    let output = graftd(state.path(), &["explain", "x.jpg", "--colors", "sepia"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_photograph_that_lies_on_its_side_is_explained_as_it_is_seen() {
    let state = state();
    let explain = |image: &Path, overlay: &Path| {
        let (image, overlay) = (image.to_str().unwrap(), overlay.to_str().unwrap());
        let flags = ["explain", image, "--json", "--overlay", overlay, "--method", "eigen-cam"];
        objects(&graftd(state.path(), &flags)).remove(0)
    };
    for orientation in 2..=8 {
        let stored = reference(&format!("pixels/orientation-{orientation}.jpg"));
        let seen = decode(&std::fs::read(&stored).unwrap(), &Limits::default()).unwrap();
        let upright = state.path().join("upright.png");
        std::fs::write(&upright, encode(&seen, ImageFormat::Png).unwrap()).unwrap();
        let overlays = ["a.png", "b.png"].map(|name| state.path().join(name));
        let found = explain(&stored, &overlays[0]);
        let expected = explain(&upright, &overlays[1]);
        for key in ["raw", "box", "peak"] {
            assert_eq!(found[key], expected[key], "{key} of orientation {orientation}");
        }
        let [drawn, expected] = overlays.map(|file| std::fs::read(file).unwrap());
        assert_eq!(drawn, expected, "orientation {orientation}");
    }
}

#[test]
fn an_explanation_is_scored_and_held_against_boxes_and_a_network_that_has_forgotten() {
    let state = state();
    let boxes = state.path().join("boxes.json");
    let everywhere = "[[0, 0, 10000, 10000]]";
    let files = ["baseline.jpg", "subsampled.jpg"];
    let known = files.map(|file| format!(r#"{{"file": "{file}", "boxes": {everywhere}}}"#));
    std::fs::write(&boxes, format!("[{}]", known.join(","))).unwrap();
    let photographs = files.map(|file| reference(&format!("pixels/{file}")).display().to_string());
    let flags =
        ["--score", "--sanity", "--method", "eigen-cam", "--boxes", boxes.to_str().unwrap()];
    let explain = [&["explain", &photographs[0], &photographs[1]], &flags[..]].concat();

    let output = graftd(state.path(), &[&explain[..], &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found = &objects(&output)[0];
    let quality = &found["quality"];
    for curve in ["insertion", "deletion"] {
        let points = numbers(&quality[format!("{curve}_curve")]);
        let inner: f64 = points.windows(2).map(|pair| f64::midpoint(pair[0], pair[1])).sum();
        let area = inner / (points.len() - 1) as f64;
        assert!((area - quality[curve].as_f64().unwrap()).abs() < 1e-5, "{curve}");
        assert!(points.iter().all(|point| (0.0..=1.0).contains(point)), "{curve}");
    }
    assert!((0.0..=1.0).contains(&quality["average_drop"].as_f64().unwrap()));
    assert_eq!(found["peak_in_box"], true);
    assert!((found["energy_in_boxes"].as_f64().unwrap() - 1.0).abs() < 1e-5);
    let stages = found["sanity"].as_array().unwrap();
    assert!(stages.len() >= 2, "{stages:?}");
    for stage in stages {
        assert!(!stage["node"].as_str().unwrap().is_empty());
        assert!((-1.0..=1.0).contains(&stage["rank_correlation"].as_f64().unwrap()));
    }
    let verdict = &found["sanity_verdict"];
    assert_eq!(verdict["threshold"], 0.5);
    let last = stages.last().unwrap()["rank_correlation"].as_f64().unwrap();
    assert_eq!(verdict["rank_correlation"], last);
    assert_eq!(verdict["changed"], last.abs() <= 0.5);
    let fewer = [&explain[..], &["--json", "--sanity-stages", "2"]].concat();
    let fewer = &objects(&graftd(state.path(), &fewer))[0]["sanity"];
    assert_eq!(fewer.as_array().unwrap().len(), 2);
    assert_eq!(fewer[0], stages[0]);

    let output = graftd(state.path(), &explain);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in ["insertion 0.", "deletion 0.", "average drop 0.", "rank correlation"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.contains("pointing game: 2 of 2; mean energy inside the boxes 1.00"), "{text}");
    assert!(text.contains("over the middle that --resize crop keeps"), "{text}");
    assert!(text.contains("the map ") && text.contains("at most 0.50"), "{text}");
    assert!(text.contains("mean of 2 images: insertion 0."), "{text}");
}

#[test]
fn audit_prints_one_object_a_folder_and_writes_a_sheet_that_needs_no_other_file() {
    let state = state();
    let folder = state.path().join("photographs");
    for (class, pictures) in
        [("ant", ["baseline", "grey"]), ("bee", ["subsampled", "orientation-3"])]
    {
        std::fs::create_dir_all(folder.join(class)).unwrap();
        for picture in pictures {
            let from = reference(&format!("pixels/{picture}.jpg"));
            std::fs::copy(from, folder.join(class).join(picture).with_extension("jpg")).unwrap();
        }
    }
    std::fs::write(folder.join("bee/broken.jpg"), "no picture").unwrap();
    let (boxes, sheet) = (state.path().join("boxes.json"), state.path().join("sheet.html"));
    let whole = r#"[{"file": "baseline.jpg", "boxes": [[0, 0, 10000, 10000]]}]"#;
    std::fs::write(&boxes, whole).unwrap();
    let arguments = ["audit", folder.to_str().unwrap(), "--method", "eigen-cam", "--json"];
    let files = ["--boxes", boxes.to_str().unwrap(), "--out", sheet.to_str().unwrap()];
    let output = graftd(state.path(), &[&arguments[..], &files[..]].concat());
    assert_eq!(output.status.code(), Some(1), "one picture is broken");
    let objects = objects(&output);
    assert_eq!(objects.len(), 3);
    assert!(objects[0]["image"].as_str().unwrap().ends_with("broken.jpg"));
    let of = |object: &Value| serde_json::json!([object["class"], object["images"]]);
    assert_eq!(
        objects[1..].iter().map(of).collect::<Vec<_>>(),
        ["ant", "bee"].map(|c| serde_json::json!([c, 2]))
    );
    let outside = objects[1]["outside_energy"].as_f64().unwrap();
    assert!(outside.abs() < 1e-6, "the box is the whole picture: {outside}");
    assert!(objects[2]["outside_energy"].is_null(), "no boxes are known");
    assert!((0.0..=1.0).contains(&objects[1]["border_energy"].as_f64().unwrap()));
    assert_eq!(objects[1]["deviating"].as_array().unwrap().len(), 2);
    let cells = objects[1]["height"].as_u64().unwrap() * objects[1]["width"].as_u64().unwrap();
    assert_eq!(numbers(&objects[1]["mean_map"]).len() as u64, cells);
    assert_eq!(objects[1]["explained_as_top_class"], 0);
    let page = std::fs::read_to_string(&sheet).unwrap();
    let count = |what: &str| page.matches(what).count();
    assert_eq!((count("<h2>"), count("data:image/bmp"), count("data:image/jpeg")), (2, 2, 4));
    assert_eq!((count("src="), count("href=")), (6, 0), "all that it shows is in it");
    for tile in ["baseline.jpg: ant (like", "grey.jpg: ant (like", "subsampled.jpg: bee (like"] {
        assert!(page.contains(tile), "the class of its folder is explained: {tile}");
    }
}

/// RFC 4648, section 4.
fn from_base64(text: &str) -> Vec<u8> {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let sextets: Vec<u32> =
        text.chars().filter_map(|letter| alphabet.find(letter)).map(|at| at as u32).collect();
    let whole = |group: &[u32]| {
        let word =
            group.iter().fold(0, |word, sextet| word << 6 | sextet) << (6 * (4 - group.len()));
        word.to_be_bytes()[1..group.len()].to_vec()
    };
    sextets.chunks(4).flat_map(whole).collect()
}

#[test]
fn a_contact_sheet_holds_twelve_small_pictures_of_a_class_however_many_and_large_there_are() {
    let state = state();
    let folder = state.path().join("ant");
    std::fs::create_dir(&folder).unwrap();
    for number in 0..14_u8 {
        let pixels =
            (0..800 * 400_u32).flat_map(|at| [number * 9, (at % 251) as u8, (at / 800) as u8]);
        let picture = Picture::new(800, 400, pixels.collect()).unwrap();
        let file = encode(&picture, ImageFormat::Png).unwrap();
        std::fs::write(folder.join(format!("{number:02}.png")), file).unwrap();
    }
    let sheet = state.path().join("sheet.html");
    let audit = ["audit", folder.to_str().unwrap(), "--json", "--method", "eigen-cam"];
    let output = graftd(state.path(), &[&audit[..], &["--out", sheet.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let findings = objects(&output).remove(0);
    assert_eq!(findings["images"], 14);
    let page = std::fs::read_to_string(&sheet).unwrap();
    let tiles: Vec<&str> = page.split("data:image/jpeg;base64,").skip(1).collect();
    assert_eq!(tiles.len(), 12);
    for tile in &tiles {
        let file = from_base64(tile.split('"').next().unwrap());
        let drawn = decode(&file, &Limits::default()).unwrap();
        assert_eq!((drawn.width, drawn.height), (360, 180));
    }
    // The most deviating come first.
    for (tile, deviating) in tiles.iter().zip(findings["deviating"].as_array().unwrap()) {
        assert!(tile.contains(deviating.as_str().unwrap()), "{deviating} in its place");
    }
}

#[test]
fn audit_takes_photographs_on_both_sides_of_a_sub_folder_for_one_class() {
    let state = state();
    let folder = state.path().join("bee");
    std::fs::create_dir_all(folder.join("ant")).unwrap();
    for picture in ["a.jpg", "ant/1.jpg", "ant/2.jpg", "z.jpg"] {
        std::fs::copy(reference("pixels/baseline.jpg"), folder.join(picture)).unwrap();
    }
    let output = graftd(state.path(), &["audit", folder.to_str().unwrap(), "--json"]);
    let of = |object: &Value| serde_json::json!([object["class"], object["images"]]);
    let found: Vec<Value> = objects(&output).iter().map(of).collect();
    assert_eq!(found, ["ant", "bee"].map(|class| serde_json::json!([class, 2])));
}

#[test]
fn audit_tells_how_many_were_explained_as_the_most_probable_class_for_want_of_their_own() {
    let state = state();
    let folder = state.path().join("unicorn");
    std::fs::create_dir(&folder).unwrap();
    for picture in ["baseline.jpg", "grey.jpg"] {
        std::fs::copy(reference("pixels").join(picture), folder.join(picture)).unwrap();
    }
    let audit = ["audit", folder.to_str().unwrap()];
    let output = graftd(state.path(), &[&audit[..], &["--json"]].concat());
    assert_eq!(objects(&output)[0]["explained_as_top_class"], 2);
    let output = graftd(state.path(), &audit);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("so 2 explained as what the network takes them for"), "{text}");
}

#[test]
fn what_cannot_be_explained_is_said_in_the_images_place() {
    let state = state();
    let photograph = reference("pixels/baseline.jpg");
    let explain = ["explain", photograph.to_str().unwrap(), "--json"];
    for (flags, code, word) in [
        (["--class", "4"], "INVALID_ARGUMENT", "out of range"),
        (["--class", "label:cat"], "INVALID_ARGUMENT", "[2, 3]"),
        (["--class", "label:dog"], "INVALID_ARGUMENT", "dog"),
        (["--layer", "nowhere"], "NOT_FOUND", "nowhere"),
        (["--layer", "features"], "INVALID_ARGUMENT", "not spatial"),
        (["--samples", "1000000"], "INVALID_ARGUMENT", "1000"),
        (["--box-threshold", "0"], "INVALID_ARGUMENT", "above 0 up to 1"),
        (["--class", "99999999999999999999999"], "INVALID_ARGUMENT", "out of range"),
    ] {
        let output = graftd(state.path(), &[&explain[..], &flags[..]].concat());
        assert_eq!(output.status.code(), Some(1), "{flags:?}");
        let error = &objects(&output)[0]["error"];
        assert_eq!(error["code"], code, "{flags:?}: {error}");
        assert!(error["message"].as_str().unwrap().contains(word), "{flags:?}: {error}");
    }
    // What is no class at all is refused with the command line.
    let output = graftd(state.path(), &[&explain[..], &["--class", "tabby"]].concat());
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_saved_head_predicts_and_is_explained_in_place_of_the_networks_own_classifier() {
    let state = state();
    let values = (0..2 * 12).map(|i| ((i * 7) % 11) as f32 / 11.0 - 0.4).collect();
    let linear = Linear::new(Matrix::new(2, 12, values).unwrap(), vec![0.0, 0.1]).unwrap();
    let classes = ["good", "bad"].map(String::from).to_vec();
    let head = Head::new(Kind::Softmax, classes, Transform::default(), Classifier::Linear(linear));
    let provenance = Provenance { backbone: "tiny".into(), ..Provenance::default() };
    let file = state.path().join("judge.safetensors");
    let bytes = head.unwrap().with_provenance(provenance).to_bytes().unwrap();
    std::fs::write(&file, bytes).unwrap();
    let photograph = reference("pixels/baseline.jpg");
    let flags = [photograph.to_str().unwrap(), "--json", "--head", file.to_str().unwrap()];

    let predicted = graftd(state.path(), &[&["predict"], &flags[..]].concat());
    assert!(predicted.status.success(), "{}", String::from_utf8_lossy(&predicted.stderr));
    let predicted = &objects(&predicted)[0];
    assert_eq!((&predicted["head"], &predicted["backbone"]), (&"judge".into(), &"tiny".into()));
    assert_eq!(predicted["predictions"].as_array().unwrap().len(), 2);

    let explained = graftd(state.path(), &[&["explain"], &flags[..]].concat());
    assert!(explained.status.success(), "{}", String::from_utf8_lossy(&explained.stderr));
    let explained = &objects(&explained)[0];
    assert_eq!(explained["head"], "judge");
    assert_eq!(explained["class"]["label"], predicted["predictions"][0]["label"]);
    let own = graftd(state.path(), &["explain", flags[0], "--json"]);
    assert_ne!(objects(&own)[0]["raw"], explained["raw"]);

    let foreign = Provenance { backbone_sha256: "00".repeat(32), ..Provenance::default() };
    let head = Head::from_bytes(&std::fs::read(&file).unwrap()).unwrap();
    std::fs::write(&file, head.with_provenance(foreign).to_bytes().unwrap()).unwrap();
    let refused = graftd(state.path(), &[&["explain"], &flags[..]].concat());
    assert!(!refused.status.success());
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(message.contains("another network"), "{message}");
}
