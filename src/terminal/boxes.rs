//! Files that tell where objects are in photographs.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

/// A box's left, upper, right and lower edge on the upright photograph, in pixels.
pub type Edges = [f32; 4];

#[derive(Deserialize)]
struct Entry {
    file: String,
    boxes: Vec<Edges>,
}

/// Reads a JSON list of `{"file", "boxes": [[x0, y0, x1, y1], ...]}`; other fields are ignored. The
/// boxes of a file that is listed several times come together.
///
/// # Errors
/// Where the file cannot be read or is not such a list: what is wrong, with the file's name.
pub fn boxes(file: &Path) -> Result<BTreeMap<String, Vec<Edges>>, String> {
    let fault = |reason: String| format!("--boxes {}: {reason}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| fault(error.to_string()))?;
    let entries: Vec<Entry> =
        serde_json::from_str(&text).map_err(|error| fault(error.to_string()))?;
    let mut boxes: BTreeMap<String, Vec<Edges>> = BTreeMap::new();
    for entry in entries {
        boxes.entry(entry.file).or_default().extend(entry.boxes);
    }
    Ok(boxes)
}
