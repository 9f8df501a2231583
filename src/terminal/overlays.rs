//! Where the overlays of a command's pictures go.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// The value of `--overlay`, checked, and the names that were given away.
#[derive(Debug)]
pub struct Overlays {
    target: PathBuf,
    is_folder: bool,
    taken: HashSet<PathBuf>,
}

impl Overlays {
    /// `target` is a folder, or for one picture a file.
    ///
    /// # Errors
    /// What is wrong with it, in words: several pictures for one file, or a file whose name does not
    /// end in .png, .jpg or .jpeg.
    pub fn new(target: &Path, pictures: usize) -> Result<Self, String> {
        let (is_folder, shown) = (target.is_dir(), target.display());
        if pictures > 1 && !is_folder {
            return Err(format!("--overlay {shown} must be a folder for several images"));
        }
        let ends_in = |ending: &str| {
            target.extension().is_some_and(|found| found.eq_ignore_ascii_case(ending))
        };
        if !is_folder && !["png", "jpg", "jpeg"].into_iter().any(ends_in) {
            return Err(format!("--overlay {shown} must end in .png or .jpg, or be a folder"));
        }
        Ok(Self { target: target.to_path_buf(), is_folder, taken: HashSet::new() })
    }

    /// Whether JPEG files are written, and not PNG.
    pub fn are_jpeg(&self) -> bool {
        !self.is_folder
            && self.target.extension().is_some_and(|found| !found.eq_ignore_ascii_case("png"))
    }

    /// The file for `picture`: in a folder a PNG of the picture's name, with a number behind it where
    /// another picture of this command has that name.
    pub fn file(&mut self, picture: &Path) -> PathBuf {
        if !self.is_folder {
            return self.target.clone();
        }
        let stem = picture.file_stem().unwrap_or(picture.as_os_str()).to_string_lossy();
        let numbered = (2..).map(|number: u64| format!("{stem}-{number}.png"));
        let mut names = std::iter::once(format!("{stem}.png")).chain(numbered);
        let free = names.find(|name| self.taken.insert(self.target.join(name)));
        self.target.join(free.unwrap_or_default())
    }
}

/// The map's share of an overlay's colour.
///
/// # Errors
/// What is no number from 0 to 1.
pub fn strength(text: &str) -> Result<f32, String> {
    let value = text.parse().ok().filter(|value| (0.0..=1.0).contains(value));
    value.ok_or_else(|| "must be 0 to 1".to_owned())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // files of a test need not survive a power cut
mod tests {
    use super::*;

    #[test]
    fn pictures_of_one_name_get_files_of_their_own_in_a_folder() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("out.d");
        std::fs::create_dir(&folder).unwrap();
        let mut overlays = Overlays::new(&folder, 5).unwrap();
        assert!(!overlays.are_jpeg(), "whatever the folder is called");
        let names = ["a/x.jpg", "b/x.png", "x-2.jpg", "c/x.y.jpg", "x.jpg"].map(|picture| {
            overlays.file(Path::new(picture)).file_name().unwrap().to_string_lossy().into_owned()
        });
        assert_eq!(names, ["x.png", "x-2.png", "x-2-2.png", "x.y.png", "x-3.png"]);
    }

    #[test]
    fn a_file_serves_one_picture_and_is_png_or_jpeg() {
        for (name, jpeg) in [("o.png", false), ("o.JPG", true), ("o.jpeg", true)] {
            assert_eq!(Overlays::new(Path::new(name), 1).unwrap().are_jpeg(), jpeg, "{name}");
            assert!(Overlays::new(Path::new(name), 2).unwrap_err().contains("folder"));
        }
        for name in ["o.gif", "o", "no-such-folder/"] {
            assert!(Overlays::new(Path::new(name), 1).unwrap_err().contains(".png"), "{name}");
        }
    }

    #[test]
    fn a_strength_lies_between_0_and_1_both_included() {
        assert_eq!((strength("0"), strength("1")), (Ok(0.0), Ok(1.0)));
        for text in ["7", "-0.1", "NaN", "much"] {
            assert!(strength(text).is_err(), "{text}");
        }
    }
}
