//! What stands in `deploy/` fits the program.
#![cfg(feature = "daemon")]

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const GRAFTD: &str = env!("CARGO_BIN_EXE_graftd");

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file)
}

#[test]
fn the_sample_configuration_explains_every_key_with_its_default() {
    let sample = std::fs::read_to_string(deploy("graftd.toml")).unwrap();
    let printed = Command::new(GRAFTD).args(["check-config", "--print-default"]).output().unwrap();
    let defaults = String::from_utf8(printed.stdout).unwrap();
    let introduction = sample.strip_suffix(&defaults);
    assert!(
        !defaults.is_empty()
            && introduction
                .is_some_and(|text| text.lines().all(|l| l.is_empty() || l.starts_with('#'))),
        "deploy/graftd.toml has to be comments, then `graftd check-config --print-default`:\n\
         {defaults}"
    );
}

#[test]
fn check_config_accepts_the_sample_and_names_every_mistake_of_another() {
    let accepted = Command::new(GRAFTD).arg("check-config").arg(deploy("graftd.toml")).output();
    let accepted = accepted.unwrap();
    assert!(accepted.status.success(), "{}", String::from_utf8_lossy(&accepted.stderr));

    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.toml");
    let text = "[server]\nlisten = \"nowhere\"\nmax_streems = 3\n[engine]\nqueue = -1\n";
    std::fs::File::create_new(&broken).unwrap().write_all(text.as_bytes()).unwrap();
    let refused = Command::new(GRAFTD).arg("check-config").arg(&broken).output().unwrap();
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success());
    for key in ["server.listen", "server.max_streems", "engine.queue"] {
        assert!(message.contains(key), "{key} is not named in: {message}");
    }
}

#[test]
fn a_variable_that_is_not_utf_8_is_a_mistake_only_if_it_is_ours() {
    let check = |name: &str| {
        let no_text = OsStr::from_bytes(b"caf\xE9");
        Command::new(GRAFTD).arg("check-config").env(name, no_text).output().unwrap()
    };
    assert!(check("LESS").status.success());
    let refused = check("GRAFTD__LOG__LEVEL");
    let message = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{message}");
    assert!(message.contains("GRAFTD__LOG__LEVEL is not UTF-8"), "{message}");
}

#[test]
fn systemd_accepts_the_unit() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("skipped: systemd-analyze is not here");
        return;
    }
    // systemd wants the program to be where the unit says; here it is in the build folder.
    let unit = std::fs::read_to_string(deploy("graftd.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/graftd "));
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("graftd.service");
    let text = unit.replace("/usr/bin/graftd", GRAFTD);
    std::fs::File::create_new(&copy).unwrap().write_all(text.as_bytes()).unwrap();
    let verified =
        Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy).output().unwrap();
    let message = String::from_utf8_lossy(&verified.stderr);
    let ours: Vec<&str> = message.lines().filter(|line| line.contains("graftd")).collect();
    assert!(verified.status.success() && ours.is_empty(), "{}", ours.join("\n"));
}
