//! The README's learning script, run as it stands there: a real daemon, the real commands, on drawings
//! and, where the assets are, on real photographs.

#![cfg(feature = "daemon")]
#![allow(clippy::disallowed_methods)] // files of a test need not survive a power cut

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use graftd::vision::{self, ImageFormat};
use serde_json::Value;

/// The lines between the markers of the README.
fn script() -> String {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(readme).unwrap();
    let (_, rest) = text.split_once("<!-- learning script: begin -->\n```sh\n").unwrap();
    rest.split_once("\n```\n<!-- learning script: end -->").unwrap().0.to_owned()
}

/// A part of trashnet: some photographs of each class, copied into a folder of their own.
fn part_of_trashnet(assets: &Path, folder: &Path, each: usize) -> PathBuf {
    let target = folder.join("trash");
    for class in std::fs::read_dir(assets.join("datasets/trashnet")).unwrap() {
        let class = class.unwrap().path();
        if !class.is_dir() {
            continue;
        }
        let own = target.join(class.file_name().unwrap());
        std::fs::create_dir_all(&own).unwrap();
        let mut photographs: Vec<_> =
            std::fs::read_dir(&class).unwrap().map(|entry| entry.unwrap().path()).collect();
        photographs.sort();
        for photograph in photographs.into_iter().take(each) {
            std::fs::copy(&photograph, own.join(photograph.file_name().unwrap())).unwrap();
        }
    }
    target
}

/// As many drawings: each class has a colour, and stripes of a width and a direction.
fn drawings(folder: &Path, each: u32) -> PathBuf {
    let target = folder.join("trash");
    let classes = ["cardboard", "glass", "metal", "paper", "plastic", "trash"];
    for (class, label) in (0_u32..).zip(classes) {
        let own = target.join(label);
        std::fs::create_dir_all(&own).unwrap();
        for number in 0..each {
            std::fs::write(own.join(format!("{number:03}.png")), drawing(class, number)).unwrap();
        }
    }
    target
}

fn drawing(class: u32, number: u32) -> Vec<u8> {
    const SIDE: u32 = 64;
    let mut state = (class * 1000 + number).wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut noise = move |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % below
    };
    let (shift, light) = (noise(16), noise(40));
    let colour: [u32; 3] = std::array::from_fn(|channel| 60 + 20 * ((class + channel as u32) % 3));
    let mut pixels = Vec::new();
    for y in 0..SIDE {
        for x in 0..SIDE {
            let across = if class.is_multiple_of(2) { x } else { y } + shift;
            let stripe = 40 * (across / (2 + class) % 2);
            pixels.extend(colour.map(|value| (value + stripe + light + noise(60)) as u8));
        }
    }
    let picture = vision::Picture::new(SIDE, SIDE, pixels).unwrap();
    vision::encode(&picture, ImageFormat::Png).unwrap()
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What an answer says, without its timings.
fn said(folder: &Path, file: &str) -> (String, Value) {
    let line = std::fs::read_to_string(folder.join(file)).unwrap();
    let answer: Value = serde_json::from_str(line.trim()).unwrap_or_else(|e| panic!("{e}: {line}"));
    (answer["head"].as_str().unwrap_or_default().to_owned(), answer["predictions"].clone())
}

/// Runs the README's lines on a folder of 120 pictures and one more picture; what the first version
/// says of this and what the second.
fn run(folder: &Path, classes: &Path, photograph: &Path) -> [Value; 2] {
    let commands = Path::new(env!("CARGO_BIN_EXE_graftd")).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    // A script that fails must not leave its daemon behind, which would hold our pipes open.
    let script = format!("trap 'kill $(jobs -p) 2> /dev/null' EXIT\n{}", script());
    let address = format!("127.0.0.1:{}", free_port());
    let output = Command::new("bash")
        .args(["-eu", "-o", "pipefail", "-m", "-c", &script])
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", commands.display()))
        .env("STATE", folder.join("state"))
        .env("ADDRESS", &address)
        .env("GRAFTCTL_TARGET", &address)
        .env("FOLDER", classes)
        .env("PHOTO", photograph)
        .output()
        .unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains("120 samples are in trash, 0 of them were before; 0 refused"), "{out}");
    assert!(out.contains("everything is as it was written"), "{out}");
    let first = said(folder, "first.json");
    let second = said(folder, "second.json");
    assert_eq!((first.0.as_str(), second.0.as_str()), ("trash@1", "trash@2"));
    assert_eq!(said(folder, "explained.json").0, "trash@1");
    let overlay = std::fs::read(folder.join("looked.png")).unwrap();
    assert!(overlay.starts_with(b"\x89PNG"));
    assert_eq!(said(folder, "rolled-back.json"), first);
    assert_eq!(said(folder, "restarted.json"), first);
    [first.1, second.1]
}

#[test]
fn the_readme_teaches_rolls_back_and_restarts_with_the_same_answers() {
    let folder = tempfile::tempdir().unwrap();
    let classes = drawings(folder.path(), 20);
    let photograph = folder.path().join("photograph.png");
    std::fs::write(&photograph, drawing(1, 99)).unwrap();
    let [first, second] = run(folder.path(), &classes, &photograph);
    // So easy that both may be of the same kind, and sure.
    assert_eq!((&first[0]["label"], &second[0]["label"]), (&"glass".into(), &"glass".into()));
}

#[test]
fn the_readme_does_so_with_real_photographs() {
    let Some(assets) = common::assets() else { return };
    let folder = tempfile::tempdir().unwrap();
    let classes = part_of_trashnet(&assets, folder.path(), 20);
    let photograph = std::fs::read_dir(assets.join("datasets/trashnet/glass")).unwrap();
    let photograph = photograph.map(|entry| entry.unwrap().path()).max().unwrap();
    let [first, second] = run(folder.path(), &classes, &photograph);
    assert_ne!(first, second);
}
