//! What `graftctl` prints: JSON lines for programs, text for people. Standard output carries answers
//! alone.

use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use crate::client::ClientError;
use crate::client::messages::{AnsweringHead, Novelty, Prediction, Timings};
pub use crate::terminal::print::{json as json_line, line};
use crate::terminal::{milliseconds, of_picture, print};

/// Reports an input that failed: an error object on standard output where `json`, else a line on
/// standard error.
pub fn failure(path: &Path, error: &ClientError, json: bool) {
    if json {
        json_line(&json!({
            "image": path.to_string_lossy(),
            "error": { "code": error.kind.code_name(), "message": of_picture(error) },
        }));
    } else {
        print::error(format_args!("{}: {}", path.display(), of_picture(error)));
    }
}

/// A table without frame lines, its columns named by `header` unless that is empty.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    if !header.is_empty() {
        table.set_header(header);
    }
    table
}

/// Prints a table.
pub fn print_table(table: &Table) {
    line(table.trim_fmt());
}

/// Aligns the given columns of `table` to the right, as numbers are.
pub fn align_right(table: &mut Table, columns: &[usize]) {
    for &index in columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// The classes of an answer as the command contract wants them.
pub fn predictions(predictions: &[Prediction]) -> Value {
    predictions
        .iter()
        .map(|prediction| {
            json!({
                "index": prediction.index,
                "id": prediction.id,
                "label": prediction.label,
                "probability": prediction.probability,
                "logit": prediction.logit,
            })
        })
        .collect()
}

/// The stages' times, in milliseconds.
pub fn timings(timings: Option<&Timings>) -> Value {
    let timings = timings.copied().unwrap_or_default();
    json!({
        "decode": milliseconds(timings.decode_ms),
        "preprocess": milliseconds(timings.preprocess_ms),
        "queue": milliseconds(timings.queue_ms),
        "inference": milliseconds(timings.inference_ms),
        "head": milliseconds(timings.head_ms),
        "explain": milliseconds(timings.explain_ms),
        "total": milliseconds(timings.total_ms),
    })
}

/// Adds to `object` what only heads answer.
pub fn add_head(object: &mut Value, head: Option<&AnsweringHead>, novelty: Option<&Novelty>) {
    if let Some(head) = head {
        object["head"] = json!(format!("{}@{}", head.name, head.version));
    }
    if let Some(novelty) = novelty {
        object["novelty"] = json!({
            "score": novelty.score,
            "threshold": novelty.threshold,
            "unknown": novelty.unknown,
        });
    }
}

/// A class in words: its label, else its index.
pub fn class_name(prediction: &Prediction) -> String {
    if prediction.label.is_empty() {
        format!("class {}", prediction.index)
    } else {
        prediction.label.clone()
    }
}

/// Bytes with a unit that fits.
pub fn bytes(count: u64) -> String {
    const MIB: f64 = 1024.0 * 1024.0;
    let mebibytes = count as f64 / MIB;
    if mebibytes >= 1024.0 {
        format!("{:.1} GiB", mebibytes / 1024.0)
    } else {
        format!("{mebibytes:.1} MiB")
    }
}
