//! What both programs print: a reader that goes away, as `head` does, ends them without a word; JSON
//! has as few digits as its numbers need.

#![cfg(feature = "daemon")]

mod common;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::daemon::{Daemon, reference};

/// 128 and the number of SIGPIPE: what a shell reports of a program that it ended.
const READER_GONE: i32 = 141;

/// Runs a program whose standard output nobody reads.
fn without_reader(command: &mut Command) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stdout(writer).stderr(Stdio::piped());
    command.spawn().unwrap().wait_with_output().unwrap()
}

fn graftd(state: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_graftd"));
    command.args(arguments).arg("--state-dir").arg(state);
    command
}

fn assert_quiet(output: &Output, what: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.as_ref()), (Some(READER_GONE), ""), "{what:?}");
}

#[test]
fn graftd_ends_without_a_word_when_its_reader_is_gone() {
    let state = tempfile::tempdir().unwrap();
    let picture = reference("pixels/baseline.jpg").display().to_string();
    for arguments in [
        ["models", "list"].as_slice(),
        &["models", "list", "--json"],
        &["models", "inspect", "builtin"],
        &["check-config"],
        &["check-config", "--print-default"],
        &["completions", "bash"],
        &["explain", "--rules"],
        &["predict", &picture, "--json"],
    ] {
        assert_quiet(&without_reader(&mut graftd(state.path(), arguments)), arguments);
    }
}

#[tokio::test]
async fn graftctl_ends_without_a_word_when_its_reader_is_gone() {
    let daemon = Daemon::start().await;
    let picture = reference("pixels/baseline.jpg").display().to_string();
    for arguments in [
        ["completions", "bash"].as_slice(),
        &["device"],
        &["device", "--json"],
        &["backbones", "list"],
        &["predict", &picture],
        &["embed", &picture, "--json"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_graftctl"));
        command.args(arguments).env("GRAFTCTL_TARGET", &daemon.address);
        let ended = tokio::task::spawn_blocking(move || without_reader(&mut command));
        assert_quiet(&ended.await.unwrap(), arguments);
    }
}

#[tokio::test]
async fn single_precision_is_printed_with_the_digits_that_it_has() {
    let daemon = Daemon::start().await;
    let picture = reference("pixels/baseline.jpg").display().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_graftctl"));
    command.args(["predict", &picture, "--json"]).env("GRAFTCTL_TARGET", &daemon.address);
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap());
    let text = String::from_utf8(ended.await.unwrap().stdout).unwrap();
    let (_, predictions) = text.split_once("\"predictions\":").unwrap();
    let (predictions, _) = predictions.split_once("\"timings_ms\"").unwrap();
    for number in predictions.split(|c: char| !(c.is_ascii_digit() || "-.e".contains(c))) {
        let digits = number.chars().filter(char::is_ascii_digit).count();
        assert!(digits <= 10, "{number} in {predictions}");
    }
}
