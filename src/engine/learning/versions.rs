//! Versions of heads: stored first, then published in an immutable snapshot. Running requests
//! finish on the version that they began with. The live version of a head stays in memory, the others
//! are read when they are asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Learning, LearningError, Line, Promotion, TrainingOptions, TrainingReport};
use crate::base::digest::Hasher;
use crate::base::lru::Lru;
use crate::base::name::Name;
use crate::engine::{Engine, EngineError, HeadHandle, HeadSource, HeadVersions, LiveHead, Target};
use crate::heads::{Head, Kind, Scores};
use crate::store::{self, NewHeadVersion, Store};

/// Bytes of versions that are kept in memory beside the live ones: old versions that were asked for.
const FETCHED_BYTES: usize = 64 << 20;

/// What is stored beside a head's bytes, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadRecord {
    /// The backbone that it stands on.
    pub backbone: Name,
    /// The job that made it; `None` where it was imported.
    pub job: Option<u64>,
    /// How it was fitted.
    pub options: Option<TrainingOptions>,
    /// How good it is.
    pub report: Option<TrainingReport>,
    /// What it is, so that this can be told without reading it; `None` in records of older versions.
    #[serde(default)]
    pub about: Option<About>,
    /// What it goes on learning from, as long as it is the newest version and live.
    #[serde(default)]
    pub follow: Option<Follow>,
    /// What it was compared with when it went live.
    #[serde(default)]
    pub line: Line,
}

/// What a head is, as told to clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The kind.
    pub kind: Kind,
    /// The names of the classes, by index.
    pub classes: Vec<String>,
    /// The dataset that it learnt from; empty where unknown, as the next.
    pub dataset: String,
    /// What that dataset held.
    pub dataset_snapshot: String,
    /// Of the backbone's ONNX file.
    pub backbone_sha256: String,
    /// How it was judged where it was made; `None` where unknown.
    #[serde(default)]
    pub scores: Option<Scores>,
}

impl About {
    fn of(head: &Head) -> Self {
        let provenance = head.provenance();
        Self {
            kind: head.kind(),
            classes: head.classes().to_vec(),
            dataset: provenance.dataset.clone(),
            dataset_snapshot: provenance.dataset_snapshot.clone(),
            backbone_sha256: provenance.backbone_sha256.clone(),
            scores: provenance.scores(),
        }
    }
}

/// That a head learns each new sample of its dataset, and how far it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Follow {
    /// The dataset.
    pub dataset: Name,
    /// When what it learnt goes live.
    pub promotion: Promotion,
    /// Samples that this version learnt.
    pub samples: u64,
    /// The last of them, as [`crate::store::SampleKey::to_token`]; 0 before the first.
    pub through: u64,
    /// A digest of their ids and labels, in the order of arrival: a label that was corrected changes
    /// neither of the above. `None` in records of older versions.
    #[serde(default)]
    pub learnt: Option<String>,
}

/// What was learnt: a running digest of the id and the label of each sample, in the order of arrival.
#[derive(Clone, Debug, Default)]
pub(super) struct Learnt(Hasher);

impl Learnt {
    pub(super) fn add(&mut self, id: &str, label: &str) {
        for text in [id, label] {
            self.0.update(&(text.len() as u64).to_le_bytes());
            self.0.update(text.as_bytes());
        }
    }

    /// As [`Follow::learnt`] keeps it.
    pub(super) fn to_text(&self) -> String {
        self.0.clone().finish().to_string()
    }
}

/// A head that comes from another device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadImport {
    /// Its name here; `None` for the dataset's or, without one, `imported`.
    pub name: Option<Name>,
    /// The backbone here; `None` for the one whose hash the file names.
    pub backbone: Option<Name>,
    /// Whether it goes live at once.
    pub activate: bool,
    /// The file.
    pub bytes: Vec<u8>,
}

/// Stores a version; it is not live yet.
pub(super) fn add(
    store: &Store,
    name: &Name,
    head: &Head,
    record: &HeadRecord,
) -> Result<u32, LearningError> {
    let record = HeadRecord { about: Some(About::of(head)), ..record.clone() };
    let metadata = serde_json::to_string(&record)?;
    Ok(store.add_head_version(name, NewHeadVersion { metadata, bytes: head.to_bytes()? })?)
}

/// Makes the snapshot say of every head what the store says; at the start.
pub(super) fn publish_all(engine: &Engine, store: &Store) -> Result<(), LearningError> {
    for head in store.heads()? {
        publish(engine, store, &head.name)?;
    }
    Ok(())
}

/// Makes the snapshot say of one head what the store says.
pub(super) fn publish(engine: &Engine, store: &Store, name: &Name) -> Result<(), LearningError> {
    engine.registry().update(|snapshot| {
        // Read within the update: two publications one after the other end with the later state.
        let stored = match store.head(name) {
            Ok(stored) => stored,
            Err(store::StoreError::UnknownHead(_)) => {
                snapshot.heads.remove(name);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let loaded = snapshot.heads.remove(name).unwrap_or_default().versions;
        let mut versions = BTreeMap::new();
        for version in store.head_versions(name)? {
            let number = version.version;
            let in_memory = loaded.get(&number).filter(|handle| handle.memory().is_some());
            let handle = if stored.active != Some(number) {
                on_device(engine, store, &version)
            } else if let Some(handle) = in_memory {
                Ok(handle.clone())
            } else {
                match load(store, name, number) {
                    Ok(live) => Ok(HeadHandle::in_memory(Arc::new(live))),
                    // Whoever asks for it is told what is wrong with it.
                    Err(error) => {
                        not_loaded(name, number, &error);
                        on_device(engine, store, &version)
                    }
                }
            };
            match handle {
                Ok(handle) => {
                    versions.insert(number, handle);
                }
                // One damaged version must not keep the device from answering with the others.
                Err(error) => not_loaded(name, number, &error),
            }
        }
        snapshot.heads.insert(name.clone(), HeadVersions { versions, active: stored.active });
        Ok(())
    })
}

fn not_loaded(name: &Name, version: u32, error: &LearningError) {
    tracing::error!(head = %name, version, %error, "a head is not loaded");
}

fn on_device(
    engine: &Engine,
    store: &Store,
    version: &store::HeadVersion,
) -> Result<HeadHandle, LearningError> {
    let record: HeadRecord = serde_json::from_str(&version.metadata)?;
    Ok(HeadHandle::on_device(record.backbone, Arc::clone(source(engine, store))))
}

fn source<'a>(engine: &'a Engine, store: &Store) -> &'a Arc<dyn HeadSource> {
    engine.stored_heads(|| {
        Arc::new(StoredHeads { store: store.clone(), recent: Lru::new(FETCHED_BYTES) })
    })
}

/// The versions that are not live: read when they are asked for, and kept in memory for a while.
struct StoredHeads {
    store: Store,
    recent: Lru<(Name, u32), LiveHead>,
}

impl std::fmt::Debug for StoredHeads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredHeads").field("state", &self.store.path()).finish_non_exhaustive()
    }
}

impl HeadSource for StoredHeads {
    fn fetch(&self, name: &Name, version: u32) -> Result<Arc<LiveHead>, EngineError> {
        let read = || {
            let live = load(&self.store, name, version)?;
            let bytes = live.head.bytes_in_memory();
            Ok((live, bytes))
        };
        self.recent.get_or_make(&(name.clone(), version), read).map_err(|error: LearningError| {
            EngineError::HeadFile { head: format!("{name}@{version}"), reason: error.to_string() }
        })
    }

    fn forget(&self, name: &Name) {
        self.recent.retain(|(head, _)| head != name);
    }
}

fn load(store: &Store, name: &Name, version: u32) -> Result<LiveHead, LearningError> {
    let (found, bytes) = store.head_version(name, version)?;
    let record: HeadRecord = serde_json::from_str(&found.metadata)?;
    let head = Head::from_bytes(&bytes)?;
    Ok(LiveHead { name: name.clone(), version, backbone: record.backbone, head })
}

impl Learning {
    /// Makes a version live.
    ///
    /// # Errors
    /// An unknown head or version.
    pub fn activate(&self, name: &Name, version: u32) -> Result<store::Head, LearningError> {
        let head = self.store().activate_head_version(name, version)?;
        publish(self.engine(), self.store(), name)?;
        // It may follow its dataset again.
        self.following.look();
        Ok(head)
    }

    /// Makes the version live that was so before the present one.
    ///
    /// # Errors
    /// An unknown head, or one with nothing to return to.
    pub fn roll_back(&self, name: &Name) -> Result<store::Head, LearningError> {
        let head = self.store().roll_back_head(name)?;
        publish(self.engine(), self.store(), name)?;
        Ok(head)
    }

    /// Deletes a version that is not live, or the whole head where none is given.
    ///
    /// # Errors
    /// An unknown head or version, or the live version.
    pub fn delete(&self, name: &Name, version: Option<u32>) -> Result<(), LearningError> {
        match version {
            Some(version) => self.store().delete_head_version(name, version)?,
            None => self.store().delete_head(name)?,
        }
        source(self.engine(), self.store()).forget(name);
        publish(self.engine(), self.store(), name)
    }

    /// The backbone's ONNX file with this head in the place of its classifier.
    ///
    /// # Errors
    /// An unknown head, or one that its backbone's operator set cannot say.
    pub fn export_onnx(&self, name: &Name, version: Option<u32>) -> Result<Vec<u8>, LearningError> {
        let target = Target::Head { name: name.to_string(), version };
        let by = self.engine().snapshot().resolve(&target)?;
        let head = by.head.ok_or_else(|| EngineError::Fault("a target without head".into()))?;
        Ok(head.head.to_onnx(&by.backbone.network)?)
    }

    /// Takes a head that was trained on the same backbone elsewhere; returns its number here.
    ///
    /// # Errors
    /// Bytes that are no head, or one for a backbone that is not loaded here.
    pub fn import(&self, import: HeadImport) -> Result<(Name, u32), LearningError> {
        let head = Head::from_bytes(&import.bytes)?;
        let provenance = head.provenance();
        let snapshot = self.engine().snapshot();
        let foreign = || LearningError::ForeignHead { sha256: provenance.backbone_sha256.clone() };
        let fits = |live: &&Arc<crate::engine::LiveBackbone>| {
            !provenance.backbone_sha256.is_empty()
                && live.suits(&head)
                && import.backbone.as_ref().is_none_or(|name| *name == live.name)
        };
        let backbone = snapshot.backbones.values().find(fits).ok_or_else(foreign)?;
        let name = match import.name {
            Some(name) => name,
            None => provenance.dataset.parse().or_else(|_| "imported".parse())?,
        };
        let record = HeadRecord {
            backbone: backbone.name.clone(),
            job: None,
            options: serde_json::from_value(provenance.options.clone()).ok(),
            report: None,
            about: None,
            follow: None,
            line: Line::default(),
        };
        let version = add(self.store(), &name, &head, &record)?;
        if import.activate {
            self.store().activate_head_version(&name, version)?;
        }
        publish(self.engine(), self.store(), &name)?;
        Ok((name, version))
    }
}
