//! Where objects are in the photographs of a command.

use std::collections::HashMap;
use std::path::Path;

use super::CliError;
use crate::terminal;
use crate::vision::BoundingBox;

/// Boxes by file name.
#[derive(Debug, Default)]
pub(super) struct Boxes(HashMap<String, Vec<BoundingBox>>);

/// Reads what [`terminal::boxes`] reads.
///
/// # Errors
/// As there.
pub(super) fn read(file: &Path) -> Result<Boxes, CliError> {
    let mut boxes: HashMap<String, Vec<BoundingBox>> = HashMap::new();
    for (file, given) in terminal::boxes(file).map_err(CliError::Other)? {
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
