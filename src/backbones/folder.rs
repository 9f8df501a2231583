//! The folder of all backbones on the device.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::incoming::{self, Incoming};
use super::{BUILT_IN, BackboneError, CheckReport, Checker, Labels, Manifest, NewBackbone};
use crate::base::atomic;
use crate::base::clock;
use crate::base::name::Name;
use crate::graph::{Network, Options, Source};

const MODEL: &str = "model.onnx";
const MANIFEST: &str = "backbone.toml";
const LABELS: &str = "labels.txt";

/// The largest labels file that is read, in bytes.
const MAX_LABELS_BYTES: u64 = 4 << 20;

/// `STATE/backbones`. Reading needs no lock; whoever installs or removes must hold the state
/// folder's.
#[derive(Clone, Debug)]
pub struct Backbones {
    root: PathBuf,
}

/// An installed backbone.
#[derive(Clone, Debug)]
pub struct Backbone {
    /// Its id, the name of its folder.
    pub id: Name,
    /// What it is.
    pub manifest: Manifest,
    folder: PathBuf,
}

/// A backbone that was tried and lies ready beside the others. Dropping it removes it.
#[derive(Debug)]
pub struct Prepared {
    incoming: Incoming,
    target: PathBuf,
    backbone: Backbone,
    report: CheckReport,
}

/// One line of [`Backbones::list`]: a folder whose manifest is damaged is listed too.
#[derive(Debug)]
pub struct Listed {
    /// The name of the folder.
    pub id: Name,
    /// The backbone in it.
    pub backbone: Result<Backbone, BackboneError>,
}

impl Backbones {
    /// The backbones of a state folder; nothing is touched yet.
    pub fn new(state_dir: &Path) -> Self {
        Self { root: state_dir.join("backbones") }
    }

    /// The folder that holds them.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All backbones, by id.
    ///
    /// # Errors
    /// If the folder cannot be read; one that does not exist is empty.
    pub fn list(&self) -> Result<Vec<Listed>, BackboneError> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(BackboneError::io(&self.root)(error)),
        };
        let mut listed = Vec::new();
        for entry in entries {
            let entry = entry.map_err(BackboneError::io(&self.root))?;
            // Folders under construction begin with a dot and so are no names.
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<Name>().ok())
            else {
                continue;
            };
            if entry.path().is_dir() {
                listed.push(Listed { backbone: self.get(&id), id });
            }
        }
        listed.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(listed)
    }

    /// The backbone `id`.
    ///
    /// # Errors
    /// [`BackboneError::Unknown`], or what is wrong with its manifest.
    pub fn get(&self, id: &Name) -> Result<Backbone, BackboneError> {
        let folder = self.folder(id);
        if !folder.is_dir() {
            return Err(BackboneError::Unknown(id.clone()));
        }
        let manifest = Manifest::read(&folder.join(MANIFEST))?;
        Ok(Backbone { id: id.clone(), manifest, folder })
    }

    /// Begins to receive a model file of at most `limit` bytes.
    ///
    /// # Errors
    /// If the folder cannot be made or written.
    pub fn receive(&self, limit: u64) -> Result<Incoming, BackboneError> {
        Incoming::create(&self.root, MODEL, limit)
    }

    /// Tries a received model in a child process and, if it runs, makes it the backbone `new.id`.
    ///
    /// # Errors
    /// As [`Backbones::prepare`]. Nothing is changed then.
    pub fn install(
        &self,
        incoming: Incoming,
        new: &NewBackbone,
        checker: &Checker,
    ) -> Result<(Backbone, CheckReport), BackboneError> {
        self.prepare(incoming, new, checker)?.place()
    }

    /// Tries a received model in a child process and, if it runs, makes everything ready for it to
    /// become the backbone `new.id`.
    ///
    /// # Errors
    /// As [`Backbones::check_new`]; [`BackboneError::Digest`]; a model that fails its trial;
    /// preprocessing or labels that do not fit it; names too long for a manifest. Nothing is changed
    /// then.
    pub fn prepare(
        &self,
        mut incoming: Incoming,
        new: &NewBackbone,
        checker: &Checker,
    ) -> Result<Prepared, BackboneError> {
        self.check_new(new)?;
        let (sha256, size_bytes) = incoming.finish()?;
        if let Some(expected) = new.size_bytes
            && expected != size_bytes
        {
            return Err(BackboneError::Size { expected, actual: size_bytes });
        }
        if let Some(expected) = new.sha256
            && expected != sha256
        {
            return Err(BackboneError::Digest { expected, actual: sha256 });
        }
        let options = Options {
            size: new.preprocessing.size,
            overrides: new.tensors.overrides(),
            ..Options::default()
        };
        // What does not depend on the trial is said before it, for it may take long.
        let preprocessing = new.preprocessing.resolve(new.preprocessing.size.or(Some(1)))?;
        let mut manifest = Manifest {
            name: if new.name.is_empty() { new.id.to_string() } else { new.name.clone() },
            enabled: true,
            sha256,
            size_bytes,
            added_at: clock::now(),
            licence: new.licence.clone(),
            source: new.source.clone(),
            preprocessing,
            tensors: new.tensors.clone(),
        };
        manifest.to_toml()?;
        let report = checker.check(incoming.model(), &options)?;
        manifest.preprocessing = new.preprocessing.resolve(Some(report.size))?;
        report.check_fits(&manifest.preprocessing)?;
        let labels = new.labels.as_deref().map(Labels::parse).unwrap_or_default();
        report.check_labels(&labels)?;

        incoming.write(MANIFEST, manifest.to_toml()?.as_bytes())?;
        if let Some(labels) = &new.labels {
            incoming.write(LABELS, labels.as_bytes())?;
        }
        let folder = incoming.folder().to_owned();
        let backbone = Backbone { id: new.id.clone(), manifest, folder };
        Ok(Prepared { incoming, target: self.folder(&new.id), backbone, report })
    }

    /// Whether `new` could be installed, as far as that can be told without its model.
    ///
    /// # Errors
    /// [`BackboneError::Exists`] unless `new.replace`; the id of the built-in backbone; labels that
    /// are too many to be read again; a waist that is named twice.
    pub fn check_new(&self, new: &NewBackbone) -> Result<(), BackboneError> {
        if new.id.as_str() == BUILT_IN {
            let text = format!("{BUILT_IN} is the backbone within graftd; choose another id");
            return Err(BackboneError::Mismatch(text));
        }
        if self.folder(&new.id).exists() && !new.replace {
            return Err(BackboneError::Exists(new.id.clone()));
        }
        if new.labels.as_ref().is_some_and(|labels| labels.len() as u64 > MAX_LABELS_BYTES) {
            let text = format!("the labels have more than {MAX_LABELS_BYTES} bytes together");
            return Err(BackboneError::Mismatch(text));
        }
        let mut named = HashSet::new();
        if let Some(twice) = new.tensors.waists.iter().find(|waist| !named.insert(*waist)) {
            let shown: String = twice.chars().take(100).collect();
            return Err(BackboneError::Mismatch(format!("the waist {shown:?} is named twice")));
        }
        Ok(())
    }

    /// Writes whether the daemon loads a backbone at its start.
    ///
    /// # Errors
    /// As [`Backbones::get`], or what the file system says.
    pub fn set_enabled(&self, id: &Name, enabled: bool) -> Result<Backbone, BackboneError> {
        let mut backbone = self.get(id)?;
        backbone.manifest.enabled = enabled;
        let path = backbone.folder.join(MANIFEST);
        let text = backbone.manifest.to_toml()?;
        atomic::write(&path, text.as_bytes()).map_err(BackboneError::io(&path))?;
        Ok(backbone)
    }

    /// Removes a backbone and everything in its folder.
    ///
    /// # Errors
    /// [`BackboneError::Unknown`], or what the file system says.
    pub fn remove(&self, id: &Name) -> Result<(), BackboneError> {
        let folder = self.folder(id);
        if !folder.is_dir() {
            return Err(BackboneError::Unknown(id.clone()));
        }
        // Out of sight in one step: a power cut in the middle leaves no half backbone.
        let doomed = incoming::hidden(&self.root, "removed");
        atomic::rename(&folder, &doomed).map_err(BackboneError::io(&folder))?;
        fs::remove_dir_all(&doomed).map_err(BackboneError::io(&doomed))
    }

    /// Removes what interrupted installations left, except downloads that can be resumed.
    ///
    /// # Errors
    /// What the file system says.
    pub fn clean(&self) -> Result<(), BackboneError> {
        incoming::clean(&self.root)
    }

    fn folder(&self, id: &Name) -> PathBuf {
        self.root.join(id.as_str())
    }
}

impl Prepared {
    /// The backbone where it lies now; loadable unless its model was adopted.
    pub fn backbone(&self) -> &Backbone {
        &self.backbone
    }

    /// Puts it in its place in one step, instead of what is there.
    ///
    /// # Errors
    /// What the file system says; what was there stays then.
    pub fn place(self) -> Result<(Backbone, CheckReport), BackboneError> {
        let Self { incoming, target, backbone, report } = self;
        incoming.place(&target)?;
        Ok((Backbone { folder: target, ..backbone }, report))
    }
}

impl Backbone {
    /// Its ONNX file.
    pub fn model_path(&self) -> PathBuf {
        self.folder.join(MODEL)
    }

    /// The names of its classes; empty where it has no labels file.
    ///
    /// # Errors
    /// A file that is too large or no UTF-8.
    pub fn labels(&self) -> Result<Labels, BackboneError> {
        let path = self.folder.join(LABELS);
        match read_labels(&path) {
            Ok(text) => Ok(Labels::parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Labels::default()),
            Err(error) => Err(BackboneError::io(&path)(error)),
        }
    }

    /// Loads its network from its file.
    ///
    /// # Errors
    /// A file that is not the one that was installed, or that does not fit its manifest.
    pub fn load(&self) -> Result<Network, BackboneError> {
        let Manifest { preprocessing, tensors, sha256, .. } = &self.manifest;
        let options = Options {
            size: Some(preprocessing.size),
            overrides: tensors.overrides(),
            sha256: Some(*sha256),
        };
        let network = Network::load(Source::File(self.model_path()), &options)?;
        CheckReport::of(&network).check_fits(preprocessing)?;
        Ok(network)
    }
}

/// Reads a labels file, of bounded size.
///
/// # Errors
/// What the file system says; `InvalidData` for a file that is too large or no UTF-8.
pub fn read_labels(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_LABELS_BYTES {
        let reason = format!("a labels file has at most {MAX_LABELS_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_does_not_exist_is_empty_and_unknown_ids_are_named() {
        let state = tempfile::tempdir().unwrap();
        let backbones = Backbones::new(state.path());
        assert!(backbones.list().unwrap().is_empty());
        let id: Name = "nobody".parse().unwrap();
        let message = backbones.get(&id).unwrap_err().to_string();
        assert!(message.contains("nobody") && message.contains("models list"), "{message}");
        assert!(matches!(backbones.remove(&id), Err(BackboneError::Unknown(_))));
    }

    #[test]
    fn a_damaged_manifest_is_listed_with_its_error_beside_the_others() {
        let state = tempfile::tempdir().unwrap();
        let backbones = Backbones::new(state.path());
        fs::create_dir_all(backbones.root().join("broken")).unwrap();
        fs::create_dir_all(backbones.root().join(".incoming-1-2")).unwrap();
        atomic::write(&backbones.root().join("broken/backbone.toml"), b"name = 5").unwrap();
        let listed = backbones.list().unwrap();
        assert_eq!(listed.len(), 1);
        assert!(matches!(listed[0].backbone, Err(BackboneError::Manifest { .. })));
    }
}
