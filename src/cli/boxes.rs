//! Files that tell where objects are in photographs.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::CliError;
use crate::vision::BoundingBox;

/// Boxes by file name.
#[derive(Debug, Default)]
pub(super) struct Boxes(HashMap<String, Vec<BoundingBox>>);

#[derive(Deserialize)]
struct Entry {
    file: String,
    boxes: Vec<[f32; 4]>,
}

/// Reads a JSON list of `{"file", "boxes": [[x0, y0, x1, y1], ...]}`; other fields are ignored.
///
/// # Errors
/// Where the file cannot be read or is not such a list.
pub(super) fn read(file: &Path) -> Result<Boxes, CliError> {
    let fault = |reason: String| CliError::Other(format!("--boxes {}: {reason}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| fault(error.to_string()))?;
    let entries: Vec<Entry> =
        serde_json::from_str(&text).map_err(|error| fault(error.to_string()))?;
    let mut boxes: HashMap<String, Vec<BoundingBox>> = HashMap::new();
    for Entry { file, boxes: given } in entries {
        let given = given.into_iter().map(|[x0, y0, x1, y1]| BoundingBox { x0, y0, x1, y1 });
        boxes.entry(last_part(Path::new(&file))).or_default().extend(given);
    }
    Ok(Boxes(boxes))
}

impl Boxes {
    /// The boxes of an image, found by its file name alone; empty where none are known.
    pub(super) fn of(&self, image: &Path) -> &[BoundingBox] {
        self.0.get(&last_part(image)).map_or(&[], Vec::as_slice)
    }
}

fn last_part(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
