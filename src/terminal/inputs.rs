//! From what the user names to picture files: files, folders, patterns.

use std::path::{Path, PathBuf};

/// File name endings of the formats that graftd reads.
const EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "png", "webp", "bmp", "gif"];

/// The names given stand for no pictures.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// A pattern that cannot be understood.
    #[error("{pattern:?} is not a valid pattern: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Folders and patterns without pictures.
    #[error("no pictures in {0}: give files that end in jpg, jpeg, png, webp, bmp or gif")]
    NoPictures(String),
}

/// The pictures that `names` stand for, in the order given. A folder stands for all pictures below
/// it, sorted; a pattern with `*`, `?` or `[` for what it matches; anything else for itself, so that
/// a missing file is reported as one failed input.
///
/// # Errors
/// A pattern that cannot be understood, or no pictures at all.
pub fn pictures(names: &[String]) -> Result<Vec<PathBuf>, InputError> {
    let mut pictures = Vec::new();
    for name in names {
        let path = PathBuf::from(name);
        if path.is_dir() {
            pictures.extend(pictures_in(&path));
        } else if !path.exists() && name.contains(['*', '?', '[']) {
            let matches = glob::glob(name).map_err(|error| InputError::Pattern {
                pattern: name.clone(),
                reason: error.to_string(),
            })?;
            pictures.extend(matches.filter_map(Result::ok).filter(|path| path.is_file()));
        } else {
            pictures.push(path);
        }
    }
    if pictures.is_empty() { Err(InputError::NoPictures(names.join(", "))) } else { Ok(pictures) }
}

/// The picture files below a folder, sorted by path; what lies in hidden folders is none.
pub fn pictures_in(folder: &Path) -> Vec<PathBuf> {
    walkdir::WalkDir::new(folder)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| entry.depth() == 0 || !is_hidden_folder(entry))
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file() && is_picture(entry.path()))
        .map(walkdir::DirEntry::into_path)
        .collect()
}

fn is_hidden_folder(entry: &walkdir::DirEntry) -> bool {
    entry.file_type().is_dir() && entry.file_name().as_encoded_bytes().starts_with(b".")
}

fn is_picture(path: &Path) -> bool {
    path.extension().and_then(|extension| extension.to_str()).is_some_and(|extension| {
        EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn folders_and_patterns_give_pictures_in_order_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.jpg", "a.PNG", "notes.txt", "sub/c.webp", ".cache/d.jpg"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap();
        }
        let name = |path: &str| folder.path().join(path).to_string_lossy().into_owned();
        let paths =
            |names: &[&str]| names.iter().map(|n| folder.path().join(n)).collect::<Vec<_>>();
        assert_eq!(pictures(&[name("")]).unwrap(), paths(&["a.PNG", "b.jpg", "sub/c.webp"]));
        assert_eq!(pictures(&[name("*.jpg")]).unwrap(), paths(&["b.jpg"]));
        assert_eq!(pictures(&[name("gone.jpg")]).unwrap(), paths(&["gone.jpg"]), "reported later");
        assert_eq!(pictures(&[name("*.bmp")]).unwrap_err(), InputError::NoPictures(name("*.bmp")));
        assert!(matches!(pictures(&[name("[")]).unwrap_err(), InputError::Pattern { .. }));
    }
}
