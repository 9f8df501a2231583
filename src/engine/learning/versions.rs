//! Versions of heads: stored first, then published in an immutable snapshot. Running requests
//! finish on the version that they began with.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Learning, LearningError, TrainingOptions, TrainingReport};
use crate::base::name::Name;
use crate::engine::{Engine, EngineError, HeadVersions, LiveHead, Target};
use crate::heads::Head;
use crate::store::{self, NewHeadVersion, Store};

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
    let metadata = serde_json::to_string(record)?;
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
            let live = match loaded.get(&number) {
                Some(live) => Ok(Arc::clone(live)),
                None => load(store, name, number).map(Arc::new),
            };
            match live {
                Ok(live) => {
                    versions.insert(number, live);
                }
                // One damaged version must not keep the device from answering with the others.
                Err(error) => {
                    tracing::error!(head = %name, version = number, %error, "a head is not loaded");
                }
            }
        }
        snapshot.heads.insert(name.clone(), HeadVersions { versions, active: stored.active });
        Ok(())
    })
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
            live.network.digest().to_string() == provenance.backbone_sha256
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
        };
        let version = add(self.store(), &name, &head, &record)?;
        if import.activate {
            self.store().activate_head_version(&name, version)?;
        }
        publish(self.engine(), self.store(), &name)?;
        Ok((name, version))
    }
}
