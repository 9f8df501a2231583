//! From what the user names to picture files: files, folders, patterns.

use std::io;
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
    /// A folder without pictures.
    #[error("no pictures in {0}: give files that end in jpg, jpeg, png, webp, bmp or gif")]
    NoPictures(String),
}

/// The pictures that `names` stand for, in the order given. A folder stands for all pictures below
/// it, sorted; a pattern with `*`, `?` or `[` for what it matches. What stands for no picture stands
/// for itself, so that it is reported as one failed input: [`explained`] says of which kind.
///
/// # Errors
/// A pattern that cannot be understood.
pub fn pictures(names: &[String]) -> Result<Vec<PathBuf>, InputError> {
    let mut pictures = Vec::new();
    for name in names {
        let path = PathBuf::from(name);
        if path.is_dir() {
            let before = pictures.len();
            pictures.extend(pictures_in(&path));
            if pictures.len() == before {
                pictures.push(path);
            }
        } else if !path.exists() && name.contains(['*', '?', '[']) {
            let matches = glob::glob(name).map_err(|error| InputError::Pattern {
                pattern: name.clone(),
                reason: error.to_string(),
            })?;
            let before = pictures.len();
            pictures.extend(matches.filter_map(Result::ok).filter(|path| path.is_file()));
            if pictures.len() == before {
                pictures.push(path);
            }
        } else {
            pictures.push(path);
        }
    }
    Ok(pictures)
}

/// The pictures below a folder.
///
/// # Errors
/// If there are none.
pub fn pictures_of_folder(folder: &Path) -> Result<Vec<PathBuf>, InputError> {
    let found = pictures_in(folder);
    let none = || InputError::NoPictures(folder.display().to_string());
    if found.is_empty() { Err(none()) } else { Ok(found) }
}

/// Why nothing could be read where `path` should be a picture, as what the user meant it: a file, a
/// folder or a pattern. `None` for a failure that is none of these.
pub fn explained(path: &Path, error: &io::Error) -> Option<String> {
    let kinds = "jpg, jpeg, png, webp, bmp or gif";
    if path.is_dir() {
        return Some(format!("the folder has no pictures: files that end in {kinds}"));
    }
    if error.kind() != io::ErrorKind::NotFound {
        return None;
    }
    let pattern = path.to_string_lossy().contains(['*', '?', '[']);
    let text = if pattern {
        "the pattern matches no file".to_owned()
    } else {
        format!("{error}; check the file's name")
    };
    Some(text)
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
        std::fs::create_dir(folder.path().join("empty")).unwrap();
        let none = [name("*.bmp"), name("a.PNG"), name("empty")];
        assert_eq!(pictures(&none).unwrap(), paths(&["*.bmp", "a.PNG", "empty"]), "reported later");
        let why = |file: &str| {
            let path = folder.path().join(file);
            explained(&path, &std::fs::read(&path).unwrap_err()).unwrap()
        };
        assert!(why("*.bmp").contains("matches no file"));
        assert!(why("gone.jpg").contains("check the file's name"));
        assert!(why("empty").contains("the folder has no pictures"));
        let empty = folder.path().join("empty");
        assert!(matches!(pictures_of_folder(&empty), Err(InputError::NoPictures(_))));
        assert!(matches!(pictures(&[name("[")]).unwrap_err(), InputError::Pattern { .. }));
    }
}
