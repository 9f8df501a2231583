//! From what the user names to picture files: files, folders, globs.

use std::path::{Path, PathBuf};

use crate::client::{ClientError, ErrorKind};

/// File name endings of the formats that a device reads.
const EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "png", "webp", "bmp", "gif"];

/// The pictures that `names` stand for, in the order given. A folder stands for all pictures below
/// it, sorted; a pattern with `*`, `?` or `[` for what it matches; anything else for itself, so that
/// a missing file is reported as one failed input.
pub fn expand(names: &[String]) -> Result<Vec<PathBuf>, ClientError> {
    let mut pictures = Vec::new();
    for name in names {
        let path = PathBuf::from(name);
        if path.is_dir() {
            pictures.extend(in_folder(&path));
        } else if !path.exists() && name.contains(['*', '?', '[']) {
            let matches = glob::glob(name).map_err(|error| {
                let message = format!("{name:?} is not a valid pattern: {error}");
                ClientError::local(ErrorKind::InvalidArgument, message)
            })?;
            pictures.extend(matches.filter_map(Result::ok).filter(|path| path.is_file()));
        } else {
            pictures.push(path);
        }
    }
    if pictures.is_empty() {
        let message = format!(
            "no pictures in {}: give files that end in {}",
            names.join(", "),
            EXTENSIONS.join(", ")
        );
        return Err(ClientError::local(ErrorKind::NotFound, message));
    }
    Ok(pictures)
}

/// The picture files below a folder, sorted by path.
pub fn in_folder(folder: &Path) -> Vec<PathBuf> {
    walkdir::WalkDir::new(folder)
        .sort_by_file_name()
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file() && is_picture(entry.path()))
        .map(walkdir::DirEntry::into_path)
        .collect()
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
        for name in ["b.jpg", "a.PNG", "notes.txt", "sub/c.webp"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap();
        }
        let name = |path: &str| folder.path().join(path).to_string_lossy().into_owned();
        let paths =
            |names: &[&str]| names.iter().map(|n| folder.path().join(n)).collect::<Vec<_>>();
        assert_eq!(expand(&[name("")]).unwrap(), paths(&["a.PNG", "b.jpg", "sub/c.webp"]));
        assert_eq!(expand(&[name("*.jpg")]).unwrap(), paths(&["b.jpg"]));
        assert_eq!(expand(&[name("gone.jpg")]).unwrap(), paths(&["gone.jpg"]), "reported later");
        assert_eq!(expand(&[name("*.bmp")]).unwrap_err().kind, ErrorKind::NotFound);
        assert_eq!(expand(&[name("[")]).unwrap_err().kind, ErrorKind::InvalidArgument);
    }
}
