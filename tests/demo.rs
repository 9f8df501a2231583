//! `graftd demo` from its command line to the files that it leaves.

use std::path::Path;
use std::process::Command;

/// The last number before the first ` of ` in the line that holds `text`.
fn count(output: &str, text: &str) -> usize {
    let line = output.lines().find(|line| line.contains(text));
    let line = line.unwrap_or_else(|| panic!("no line with {text:?} in:\n{output}"));
    let before = line.split(" of ").next().unwrap_or_default();
    before.split_whitespace().rev().find_map(|word| word.parse().ok()).expect("a count")
}

fn size_of_png(path: &Path) -> (u32, u32) {
    let bytes = std::fs::read(path).unwrap();
    let limits = graftd::vision::Limits::default();
    let picture = graftd::vision::decode(&bytes, &limits).unwrap();
    (picture.width, picture.height)
}

/// Runs the demo; gives what it printed, and the folder with its pictures.
fn demo(flags: &[&str]) -> (String, tempfile::TempDir) {
    let out = tempfile::tempdir().unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_graftd"))
        .args(["demo", "--out"])
        .arg(out.path())
        .args(flags)
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(run.status.success(), "{output}\n{}", String::from_utf8_lossy(&run.stderr));
    (output, out)
}

#[test]
fn the_demo_goes_through_every_step_and_leaves_its_pictures() {
    let (output, out) = demo(&["--samples", "16"]);
    assert!(output.contains("rolled back") && output.contains("answered by version 1"), "{output}");
    assert!(output.contains("activated parts@2") && output.contains("by version 2"), "{output}");
    assert!(output.matches("$ grpcurl").count() >= 7, "{output}");
    for name in ["sample.jpg", "fresh.jpg", "duck.jpg", "damaged.jpg"] {
        assert!(out.path().join(name).is_file(), "{name} is missing\n{output}");
    }
    assert_eq!(size_of_png(&out.path().join("damaged-000.png")), (224, 224));
    assert!(size_of_png(&out.path().join("contact-sheet.png")).0 > 1000);
}

#[test]
fn the_demo_learns_its_parts_and_knows_what_it_does_not_know() {
    let (output, _out) = demo(&[]);
    // Five classes: guessing gets 10 of 50.
    assert!(count(&output, "of 50 right") >= 40, "{output}");
    assert_eq!(count(&output, "ducks came back as unknown"), 5, "{output}");
    assert!(count(&output, "hottest point lies on the damage") >= 6, "{output}");
}
