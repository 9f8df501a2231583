//! Brings backbones onto the device, and in and out of memory, while requests run.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Engine, LiveBackbone, Snapshot};
use crate::backbones::{
    BUILT_IN, BackboneError, Backbones, Checker, Incoming, Manifest, NewBackbone, Prepared,
};
use crate::base::{digest::Digest, memory, name::Name};

/// The backbones of a state folder, beside an engine that serves some of them. Everything here may
/// take seconds: call it where waiting is allowed.
#[derive(Debug)]
pub struct BackboneKeeper {
    engine: Arc<Engine>,
    folder: Backbones,
    checker: Checker,
    /// One trial at a time: each takes the memory of a network.
    trying: Mutex<()>,
    /// Folder and registry change together, one change after the other. Nobody waits for it for longer
    /// than a network takes to load: a trial may take minutes and is over before.
    changing: Mutex<()>,
}

/// A backbone on the device, in memory or not.
#[derive(Clone, Debug)]
pub struct KeptBackbone {
    /// Its id.
    pub id: Name,
    /// Its manifest; `None` for the built-in one and where the folder is damaged.
    pub manifest: Option<Manifest>,
    /// What answers; `None` while it is not in memory.
    pub live: Option<Arc<LiveBackbone>>,
    /// What is wrong with its folder.
    pub damage: Option<String>,
}

/// Why a backbone cannot be brought in, loaded, unloaded or deleted.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// Folder, file or network.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
    /// The built-in backbone is part of the program.
    #[error("{BUILT_IN} is part of graftd: it cannot be unloaded or deleted")]
    BuiltIn,
    /// Heads stand on it.
    #[error("the heads {heads} stand on backbone {backbone}; delete them first")]
    InUse {
        /// The backbone.
        backbone: Name,
        /// The heads, separated by commas.
        heads: String,
    },
}

impl BackboneKeeper {
    /// Keeps the backbones of `state_dir` for `engine`; `checker` tries new ones.
    pub fn new(engine: Arc<Engine>, state_dir: &Path, checker: Checker) -> Self {
        let (trying, changing) = (Mutex::default(), Mutex::default());
        Self { engine, folder: Backbones::new(state_dir), checker, trying, changing }
    }

    /// All backbones on the device and those that are part of the program, by id.
    ///
    /// # Errors
    /// If the state folder cannot be read.
    pub fn list(&self) -> Result<Vec<KeptBackbone>, KeeperError> {
        let snapshot = self.engine.snapshot();
        let mut kept: Vec<KeptBackbone> = Vec::new();
        for listed in self.folder.list()? {
            let live = snapshot.backbones.get(&listed.id).cloned();
            let (manifest, damage) = match listed.backbone {
                Ok(backbone) => (Some(backbone.manifest), None),
                Err(error) => (None, Some(error.to_string())),
            };
            kept.push(KeptBackbone { id: listed.id, manifest, live, damage });
        }
        for id in snapshot.unloaded.iter().filter(|id| id.as_str() == BUILT_IN) {
            kept.push(KeptBackbone { id: id.clone(), manifest: None, live: None, damage: None });
        }
        for (id, live) in &snapshot.backbones {
            if !kept.iter().any(|found| found.id == *id) {
                let (id, live) = (id.clone(), Some(Arc::clone(live)));
                kept.push(KeptBackbone { id, manifest: None, live, damage: None });
            }
        }
        kept.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(kept)
    }

    /// One backbone.
    ///
    /// # Errors
    /// [`BackboneError::Unknown`], or what is wrong with its folder.
    pub fn get(&self, id: &Name) -> Result<KeptBackbone, KeeperError> {
        let live = self.engine.snapshot().backbones.get(id).cloned();
        let manifest = match self.folder.get(id) {
            Ok(backbone) => Some(backbone.manifest),
            Err(_) if live.is_some() || id.as_str() == BUILT_IN => None,
            Err(error) => return Err(error.into()),
        };
        Ok(KeptBackbone { id: id.clone(), manifest, live, damage: None })
    }

    /// Loads a backbone, so that it answers now and after each restart. One that is in memory is
    /// loaded anew.
    ///
    /// # Errors
    /// An unknown id, or what is wrong with its file.
    pub fn load(&self, id: &Name) -> Result<KeptBackbone, KeeperError> {
        let _one_at_a_time = self.change();
        let built_in = id.as_str() == BUILT_IN;
        if built_in && self.engine.snapshot().backbones.contains_key(id) {
            return self.get(id);
        }
        let live = if built_in {
            // For now: whether it is loaded at the start is said by backbones.enabled alone.
            Arc::new(LiveBackbone::built_in()?)
        } else {
            let live = LiveBackbone::installed(&self.folder.get(id)?)?;
            self.folder.set_enabled(id, true)?;
            Arc::new(live)
        };
        self.publish(|snapshot| {
            snapshot.backbones.insert(id.clone(), live);
            snapshot.unloaded.remove(id);
        });
        self.get(id)
    }

    /// Takes a backbone out of memory, now and for later restarts; requests that run finish.
    ///
    /// # Errors
    /// An unknown id, or the built-in backbone.
    pub fn unload(&self, id: &Name) -> Result<KeptBackbone, KeeperError> {
        refuse_built_in(id)?;
        let _one_at_a_time = self.change();
        self.folder.set_enabled(id, false)?;
        self.publish(|snapshot| {
            snapshot.backbones.remove(id);
            snapshot.unloaded.insert(id.clone());
        });
        self.get(id)
    }

    /// Deletes a backbone; requests that run finish. Returns the key of its embeddings if nothing else
    /// on the device makes them; that is known only of one that was loaded.
    ///
    /// # Errors
    /// An unknown id, the built-in backbone, or [`KeeperError::InUse`].
    pub fn delete(&self, id: &Name) -> Result<Option<Digest>, KeeperError> {
        refuse_built_in(id)?;
        let _one_at_a_time = self.change();
        self.refuse_in_use(id)?;
        let orphaned = self.embeddings_of_it_alone(id)?;
        self.folder.remove(id)?;
        self.publish(|snapshot| {
            snapshot.backbones.remove(id);
            snapshot.unloaded.remove(id);
        });
        Ok(orphaned)
    }

    /// The key of the embeddings that `id` makes and no other backbone on the device: none that is
    /// loaded, and of those that are not none of the same file.
    fn embeddings_of_it_alone(&self, id: &Name) -> Result<Option<Digest>, KeeperError> {
        let kept = self.list()?;
        let Some(own) = kept.iter().find(|kept| kept.id == *id).and_then(|own| own.live.as_ref())
        else {
            return Ok(None);
        };
        let shares = |other: &KeptBackbone| match (&other.live, &other.manifest) {
            (Some(live), _) => live.embedding_key() == own.embedding_key(),
            (None, Some(manifest)) => manifest.sha256 == own.network.digest(),
            (None, None) => false,
        };
        let shared = kept.iter().any(|other| other.id != *id && shares(other));
        Ok((!shared).then(|| own.embedding_key()))
    }

    /// Begins to receive a model of at most `limit` bytes.
    ///
    /// # Errors
    /// If the state folder cannot be written.
    pub fn receive(&self, limit: u64) -> Result<Incoming, KeeperError> {
        Ok(self.folder.receive(limit)?)
    }

    /// Whether `new` could be installed, as far as that can be told without its model.
    ///
    /// # Errors
    /// See [`Backbones::check_new`].
    pub fn check_new(&self, new: &NewBackbone) -> Result<(), KeeperError> {
        Ok(self.folder.check_new(new)?)
    }

    /// Tries a received model in a child process, in a folder of its own: others are loaded, unloaded
    /// and deleted meanwhile.
    ///
    /// # Errors
    /// See [`Backbones::prepare`].
    pub fn prepare(&self, incoming: Incoming, new: &NewBackbone) -> Result<Prepared, KeeperError> {
        let _one_at_a_time = self.trying.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(self.folder.prepare(incoming, new, &self.checker)?)
    }

    /// Loads what was prepared as `new` and keeps it. One that it replaces answers until then, and
    /// stays if anything fails.
    ///
    /// # Errors
    /// See [`Backbones::check_new`]: another may have come under that id during the trial.
    /// [`KeeperError::InUse`] where heads stand on a backbone that would be replaced with one that
    /// makes other embeddings.
    pub fn install(
        &self,
        prepared: Prepared,
        new: &NewBackbone,
    ) -> Result<KeptBackbone, KeeperError> {
        let id = &new.id;
        let _one_at_a_time = self.change();
        self.folder.check_new(new)?;
        self.refuse_other_embeddings(id, &prepared.backbone().manifest)?;
        let live = Arc::new(LiveBackbone::installed(prepared.backbone())?);
        prepared.place()?;
        self.publish(|snapshot| {
            snapshot.backbones.insert(id.clone(), live);
            snapshot.unloaded.remove(id);
        });
        self.get(id)
    }

    fn refuse_in_use(&self, id: &Name) -> Result<(), KeeperError> {
        let snapshot = self.engine.snapshot();
        let on_it = snapshot
            .heads
            .iter()
            .filter(|(_, head)| head.versions.values().any(|version| version.backbone == *id));
        let heads: Vec<&str> = on_it.map(|(name, _)| name.as_str()).collect();
        if heads.is_empty() {
            return Ok(());
        }
        Err(KeeperError::InUse { backbone: id.clone(), heads: heads.join(", ") })
    }

    /// Heads are of no use on a backbone that makes other embeddings than they were trained on.
    fn refuse_other_embeddings(&self, id: &Name, new: &Manifest) -> Result<(), KeeperError> {
        let same = |old: &Manifest| {
            old.sha256 == new.sha256
                && old.preprocessing == new.preprocessing
                && old.tensors.computes_as(&new.tensors)
        };
        let old = self.folder.get(id).ok();
        if old.is_some_and(|old| same(&old.manifest)) { Ok(()) } else { self.refuse_in_use(id) }
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, change: impl FnOnce(&mut Snapshot)) {
        let change = |snapshot: &mut Snapshot| {
            change(snapshot);
            Ok::<(), std::convert::Infallible>(())
        };
        let Ok(()) = self.engine.registry().update(change);
        self.engine.forget_unloaded();
        memory::give_back();
    }
}

fn refuse_built_in(id: &Name) -> Result<(), KeeperError> {
    if id.as_str() == BUILT_IN { Err(KeeperError::BuiltIn) } else { Ok(()) }
}
