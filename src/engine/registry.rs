//! What is loaded and live: an immutable snapshot that requests take once and keep.
//!
//! Whoever loads, unloads or replaces something makes a new snapshot and publishes it; a running
//! request goes on with the one it began with, so nothing is ever pulled from under it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::{Answerer, EngineError, HeadHandle, LiveBackbone, LiveHead, Origin};
use crate::base::name::Name;

/// Whom a request wants to answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// The configured default, else the only backbone that the user added, else the latest added,
    /// else the built-in one.
    #[default]
    Default,
    /// A backbone's own classifier.
    Backbone(String),
    /// A head: its active version, or the one given.
    Head {
        /// The head's name.
        name: String,
        /// The version; `None` for the active one.
        version: Option<u32>,
    },
}

/// Everything that is loaded at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Loaded backbones by name.
    pub backbones: BTreeMap<Name, Arc<LiveBackbone>>,
    /// Backbones that are on the device but not loaded.
    pub unloaded: BTreeSet<Name>,
    /// Loaded heads by name.
    pub heads: BTreeMap<Name, HeadVersions>,
    /// What answers a request that names nothing, where configured: a backbone or a head.
    pub default: Option<String>,
}

/// The versions of a head that can answer.
#[derive(Clone, Debug, Default)]
pub struct HeadVersions {
    /// By version.
    pub versions: BTreeMap<u32, HeadHandle>,
    /// The version that answers when none is named.
    pub active: Option<u32>,
}

impl HeadVersions {
    /// The backbone that the head stands on: that of its active version, else of its latest.
    pub fn backbone(&self) -> Option<&Name> {
        let active = self.active.and_then(|version| self.versions.get(&version));
        active.or(self.versions.values().next_back()).map(|handle| &handle.backbone)
    }
}

/// Holds the current snapshot. Reading never waits; changes happen one after the other.
#[derive(Debug, Default)]
pub struct Registry {
    current: ArcSwap<Snapshot>,
    changing: Mutex<()>,
}

impl Registry {
    /// A registry that begins with `snapshot`.
    pub fn new(snapshot: Snapshot) -> Self {
        Self { current: ArcSwap::from_pointee(snapshot), changing: Mutex::default() }
    }

    /// What is loaded now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Publishes what `change` makes of the current snapshot. Slow work (loading a network) belongs
    /// before this call.
    ///
    /// # Errors
    /// Those of `change`; nothing is published then.
    pub fn update<T, E>(&self, change: impl FnOnce(&mut Snapshot) -> Result<T, E>) -> Result<T, E> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Snapshot::clone(&self.current.load());
        let outcome = change(&mut next)?;
        self.current.store(Arc::new(next));
        Ok(outcome)
    }
}

impl Snapshot {
    /// A snapshot of one backbone, for commands that need no daemon.
    pub fn of(backbone: LiveBackbone) -> Self {
        let backbones = BTreeMap::from([(backbone.name.clone(), Arc::new(backbone))]);
        Self { backbones, ..Self::default() }
    }

    /// Adds a head as the one that answers a request that names nothing.
    ///
    /// # Errors
    /// Where it was trained on another network than the backbone that it names, or that is not
    /// loaded.
    pub fn add_default(&mut self, head: LiveHead) -> Result<(), EngineError> {
        let (name, version) = (head.name.clone(), head.version);
        let versions = BTreeMap::from([(version, HeadHandle::in_memory(Arc::new(head)))]);
        self.heads.insert(name.clone(), HeadVersions { versions, active: Some(version) });
        self.default = Some(name.to_string());
        self.resolve(&Target::Default).map(drop)
    }

    /// Finds who answers.
    ///
    /// # Errors
    /// An unknown name, listing what there is; a head without live version, or whose backbone is not
    /// loaded or is another; a version that has to be fetched and cannot be read.
    pub fn resolve(&self, target: &Target) -> Result<Answerer, EngineError> {
        match target {
            Target::Default => self.resolve_default(),
            Target::Backbone(name) => self.backbone(name),
            Target::Head { name, version } => self.head(name, *version),
        }
    }

    /// Whether [`Snapshot::resolve`] answers at once: false for the version of a head that has to be
    /// fetched.
    pub fn is_in_memory(&self, target: &Target) -> bool {
        let (name, version) = match (target, &self.default) {
            (Target::Head { name, version }, _) => (name, *version),
            (Target::Default, Some(name)) => (name, None),
            (Target::Default, None) | (Target::Backbone(_), _) => return true,
        };
        let head = self.heads.get(name.as_str());
        let handle = head.and_then(|head| head.versions.get(&version.or(head.active)?));
        handle.is_none_or(|handle| handle.memory().is_some())
    }

    fn resolve_default(&self) -> Result<Answerer, EngineError> {
        if let Some(name) = &self.default {
            return if self.heads.contains_key(name.as_str()) {
                self.head(name, None)
            } else {
                self.backbone(name).map_err(of_configured_default)
            };
        }
        let added = |backbone: &&Arc<LiveBackbone>| match backbone.origin {
            Origin::Added(time) => Some(time),
            Origin::BuiltIn => None,
        };
        let latest = self.backbones.values().max_by_key(added).ok_or(EngineError::NothingLoaded)?;
        Ok(Answerer { backbone: Arc::clone(latest), head: None })
    }

    fn backbone(&self, name: &str) -> Result<Answerer, EngineError> {
        let found = self.backbones.get(name).map(Arc::clone);
        let backbone = found.ok_or_else(|| {
            if self.unloaded.contains(name) {
                EngineError::NotLoaded(name.to_owned())
            } else {
                unknown("backbone", name, self.backbones.keys())
            }
        })?;
        Ok(Answerer { backbone, head: None })
    }

    fn head(&self, name: &str, version: Option<u32>) -> Result<Answerer, EngineError> {
        let found = self.heads.get_key_value(name);
        let (known, head) = found.ok_or_else(|| unknown("head", name, self.heads.keys()))?;
        let no_live_version = || EngineError::NoLiveVersion { head: known.to_string() };
        let version = version.or(head.active).ok_or_else(no_live_version)?;
        let handle = head.versions.get(&version).ok_or_else(|| {
            let known = head.versions.keys().map(|version| format!("{name}@{version}"));
            unknown("head", &format!("{name}@{version}"), known)
        })?;
        let head = handle.get(known, version)?;
        let backbone = self.backbone(head.backbone.as_str())?.backbone;
        backbone.check_head(&head)?;
        Ok(Answerer { backbone, head: Some(head) })
    }
}

/// Says why that name was looked for, though the request names nothing.
fn of_configured_default(error: EngineError) -> EngineError {
    #[allow(clippy::wildcard_enum_match_arm)] // the others explain themselves
    match error {
        EngineError::Unknown { name, known, .. } => EngineError::Unknown {
            kind: "backbone or head",
            name,
            known: format!(
                "{known}. The configuration key backbones.default names it: change it there, or name \
                 a backbone or head in the request"
            ),
        },
        other => other,
    }
}

fn unknown(
    kind: &'static str,
    name: &str,
    known: impl ExactSizeIterator<Item = impl ToString>,
) -> EngineError {
    const SHOWN: usize = 20;
    let more = known.len().saturating_sub(SHOWN);
    let names = known.take(SHOWN).map(|name| name.to_string()).collect::<Vec<_>>().join(", ");
    let known = match (names.is_empty(), more) {
        (true, _) => format!("no {kind} is loaded"),
        (false, 0) => format!("loaded are {names}"),
        (false, more) => format!("loaded are {names} and {more} more"),
    };
    EngineError::Unknown { kind, name: name.chars().take(100).collect(), known }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_that_does_not_exist_is_laid_at_its_key() {
        let built_in = LiveBackbone::built_in().unwrap();
        let snapshot = Snapshot { default: Some("typo".into()), ..Snapshot::of(built_in) };
        let message = snapshot.resolve(&Target::Default).unwrap_err().to_string();
        for part in ["backbone or head \"typo\"", "loaded are builtin", "backbones.default"] {
            assert!(message.contains(part), "{part} is not in {message}");
        }
        let other = snapshot.resolve(&Target::Backbone("typo".into())).unwrap_err().to_string();
        assert!(!other.contains("backbones.default"), "{other}");
    }
}
