//! Guards the layers: reads the sources under `src/` and fails on an import that goes up.
//!
//! The list below is the one in `CONTRIBUTING.md`. A module may use only modules further down;
//! modules on one line do not know each other.

use std::fmt;
use std::path::Path;

/// The modules of the crate from the top down.
const LAYERS: &[&[&str]] = &[
    &["bin"],
    &["cli", "ctl"],
    &["terminal"],
    &["app"],
    &["rpc", "client"],
    &["engine"],
    &["backbones"],
    &["train", "explain"],
    &["heads"],
    &["grad"],
    &["graph"],
    &["vision"],
    &["store"],
    &["base"],
];

/// The generated protobuf types are no layer: they belong to the two sides of the wire.
const GENERATED: &str = "proto";
const KNOW_GENERATED: &[&str] = &["rpc", "client", GENERATED];

/// Crates of the network and of asynchronous code, unknown below the engine.
const NETWORK_CRATES: &[&str] = &["tokio", "tonic", "prost", "hyper"];

/// An ONNX file is protobuf too: what reads and writes one may decode and encode it.
const ONNX_FILES: &[&str] = &["graph/onnx.rs", "graph/export.rs"];

/// Where alone `unsafe` may be allowed: a folder, and a file.
const UNSAFE: &[&str] = &["graph/kernels/", "base/memory.rs"];

/// The only files that speak of gRPC's status codes.
const STATUS_CODES: &[&str] = &["rpc/status.rs", "client/error.rs"];

#[test]
fn no_source_file_breaks_a_layer_rule() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut files = 0;
    for entry in walkdir::WalkDir::new(&root).sort_by_file_name() {
        let entry = entry.expect("src/ can be read");
        if entry.path().extension().is_some_and(|e| e == "rs") {
            let name = entry.path().strip_prefix(&root).expect("below src/");
            let text = std::fs::read_to_string(entry.path()).expect("a source file can be read");
            found.extend(violations(&name.to_string_lossy(), &text));
            files += 1;
        }
    }
    assert!(files > 1, "found no sources under {}", root.display());
    let list: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(list.is_empty(), "\n{}\n", list.join("\n"));
}

#[test]
fn an_upward_import_is_found_in_every_spelling() {
    for text in [
        "use crate::engine::Queue;",
        "pub(crate) use crate::engine;",
        "use crate::{base::name::Name, engine::{Queue, Job}};",
        "use crate::{\n    base::name::Name,\n    rpc,\n};",
        "fn f() -> crate::app::App { todo!() }",
        "use super::super::engine::Queue;",
    ] {
        assert_eq!(violations("graph/load.rs", text).len(), 1, "{text}");
    }
    assert_eq!(violations("train/fit.rs", "use crate::explain::Map;").len(), 1);
    assert_eq!(violations("client/mod.rs", "use crate::rpc::status;").len(), 1);
    assert_eq!(violations("engine/mod.rs", "use crate::proto::graft::v1::Image;").len(), 1);
}

#[test]
fn unsafe_code_is_allowed_in_the_kernels_and_for_memory_alone() {
    let text = "#[allow(unsafe_code)]\nfn f() {}";
    assert_eq!(violations("graph/plan.rs", text).len(), 1);
    assert_eq!(violations("graph/kernels/processor.rs", text).len(), 0);
    assert_eq!(violations("base/memory.rs", text).len(), 0);
}

#[test]
fn a_downward_import_and_a_comment_are_allowed() {
    for text in [
        "use crate::base::{name::Name, atomic};",
        "use crate::graph::describe::Layer;",
        "use super::super::vision::Picture;",
        "use super::engine::Engine;",
        "/// Called by [`crate::engine`].\nfn f() {}",
        "let x = 1; // crate::rpc does this",
    ] {
        let found = violations("graph/load.rs", text);
        assert!(found.is_empty(), "{text}: {}", found[0]);
    }
}

#[test]
fn network_crates_codes_and_printing_are_found_where_they_do_not_belong() {
    for (file, text) in [
        ("store/mod.rs", "use tokio::sync::mpsc;"),
        ("heads/mod.rs", "fn f(s: tonic::Status) {}"),
        ("engine/mod.rs", "use prost::Message;"),
        ("engine/queue.rs", "tokio::spawn(run());"),
        ("rpc/services/inference.rs", "let code = tonic::Code::NotFound;"),
        ("rpc/services/inference.rs", "use tonic::{Code, Status};"),
        ("vision/decode.rs", "println!(\"decoded\");"),
        ("rpc/mod.rs", "eprint!(\"here\");"),
        ("cli/predict.rs", "println!(\"{line}\");"),
        ("drawer/mod.rs", "struct Unplaced;"),
    ] {
        assert_eq!(violations(file, text).len(), 1, "{file}: {text}");
    }
    for (file, text) in [
        ("engine/queue.rs", "use tokio::sync::{mpsc, oneshot};"),
        ("rpc/status.rs", "use tonic::{Code, Status};"),
        ("cli/predict.rs", "print::line(&line);"),
        ("graph/load.rs", "#[cfg(test)]\nmod tests {\n    fn f() { println!(\"skipped\"); }\n}"),
    ] {
        assert!(violations(file, text).is_empty(), "{file}: {text}");
    }
}

/// One broken rule: where, and which.
struct Violation {
    file: String,
    line: usize,
    rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "src/{}:{}: {}", self.file, self.line, self.rule)
    }
}

/// Every rule that `text`, the source file `file` (relative to `src/`), breaks.
fn violations(file: &str, text: &str) -> Vec<Violation> {
    let code: String = text.lines().map(|line| without_comment(line).to_owned() + "\n").collect();
    let mut found = Vec::new();
    let mut report = |offset: usize, rule: String| {
        let line = code[..offset].matches('\n').count() + 1;
        found.push(Violation { file: file.to_owned(), line, rule });
    };

    let module = file.split(['/', '.']).next().unwrap_or_default();
    if module == "lib" {
        return found;
    }
    if module != GENERATED && height(module).is_none() {
        report(0, format!("`{module}` has no place in the list of layers (tests/layers.rs)"));
        return found;
    }

    for (offset, used) in modules_used(file, &code) {
        let allowed = match (height(module), height(&used)) {
            _ if used == module => true,
            (_, None) => used != GENERATED || KNOW_GENERATED.contains(&module),
            (None, Some(_)) => false,
            (Some(own), Some(other)) => other < own,
        };
        if !allowed {
            report(offset, format!("`{module}` may not use `{used}`, which is not below it"));
        }
    }

    let engine = height("engine");
    for name in NETWORK_CRATES {
        for (offset, rest) in paths_from(&code, name) {
            let channels = module == "engine" && *name == "tokio" && rest.starts_with("sync");
            let onnx = ONNX_FILES.contains(&file) && *name == "prost";
            if height(module) <= engine && module != GENERATED && !channels && !onnx {
                report(offset, format!("`{module}` may not know the crate `{name}`"));
            }
        }
    }

    if !STATUS_CODES.contains(&file) {
        for (offset, rest) in paths_from(&code, "tonic") {
            if first_names(rest).iter().any(|name| name == "Code") {
                report(offset, format!("status codes belong to {}", STATUS_CODES.join(" and ")));
            }
        }
    }

    if !UNSAFE.iter().any(|place| file.starts_with(place)) {
        for (offset, _) in code.match_indices("allow(unsafe_code)") {
            report(offset, format!("unsafe code belongs to {}", UNSAFE.join(" and ")));
        }
    }

    if !file.ends_with("tests.rs") {
        let daemon = code.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        for name in ["print!", "println!", "eprint!", "eprintln!"] {
            for offset in words(daemon, name) {
                report(
                    offset,
                    format!("`{name}` panics when the reader is gone: see terminal::print"),
                );
            }
        }
    }
    found
}

/// How far up a module stands; `base` is 0.
fn height(module: &str) -> Option<usize> {
    LAYERS.iter().rev().position(|layer| layer.contains(&module))
}

fn without_comment(line: &str) -> &str {
    line.find("//").map_or(line, |start| &line[..start])
}

/// The crate's modules that `code` names, through `crate::` or enough `super::`.
fn modules_used(file: &str, code: &str) -> Vec<(usize, String)> {
    let depth = file.trim_end_matches("/mod.rs").split('/').count();
    let supers = "super::".repeat(depth);
    let mut used = Vec::new();
    for start in ["crate", supers.trim_end_matches("::")] {
        for (offset, rest) in paths_from(code, start) {
            used.extend(first_names(rest).into_iter().map(|name| (offset, name)));
        }
    }
    // Through `super::` a name may also be a private submodule: only the layers matter.
    used.retain(|(_, name)| name == GENERATED || height(name).is_some());
    used
}

/// Where a path starts with `start::`, and what follows.
fn paths_from<'a>(code: &'a str, start: &str) -> Vec<(usize, &'a str)> {
    words(code, &format!("{start}::"))
        .map(|offset| (offset, &code[offset + start.len() + 2..]))
        .collect()
}

/// Where `word` stands and is not the end of a longer name or path.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(offset, _)| offset).filter(|&offset| {
        let before = code[..offset].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

/// The first name of a path, or of each path in a group in braces.
fn first_names(path: &str) -> Vec<String> {
    let Some(group) = path.trim_start().strip_prefix('{') else {
        let end = path.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(path.len());
        return vec![path[..end].to_owned()];
    };
    let (mut names, mut name, mut depth, mut wanted) = (Vec::new(), String::new(), 0, true);
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(std::mem::take(&mut name));
                wanted = true;
            }
            _ if depth > 0 => {}
            _ if c.is_alphanumeric() || c == '_' => {
                if wanted {
                    name.push(c);
                }
            }
            _ => wanted &= name.is_empty(),
        }
    }
    names.push(name);
    names.retain(|name| !name.is_empty());
    names
}
