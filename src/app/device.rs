//! The state folder and what is loaded from it: the same for the daemon and for commands without
//! one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::AppError;
use crate::backbones::{Backbone, BackboneError, Backbones};
use crate::base::name::{InvalidName, Name};
use crate::engine::{EngineError, LiveBackbone, Origin, Snapshot};

/// The state folder: `given`, else systemd's `$STATE_DIRECTORY`, else `/var/lib/graftd` for root,
/// else `$XDG_STATE_HOME/graftd`, else `~/.local/state/graftd`.
pub fn state_dir(given: Option<PathBuf>) -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let personal = || {
        let home = || variable("HOME").map(|home| PathBuf::from(home).join(".local/state"));
        variable("XDG_STATE_HOME").map(PathBuf::from).or_else(home)
    };
    let root = rustix::process::geteuid().is_root().then(|| PathBuf::from("/var/lib"));
    given
        .or_else(|| variable("STATE_DIRECTORY").map(PathBuf::from))
        .or_else(|| root.or_else(personal).map(|folder| folder.join("graftd")))
        .unwrap_or_else(|| PathBuf::from("graftd-state"))
}

/// Loads the named backbones, or all enabled ones where `wanted` is empty, on all cores.
///
/// # Errors
/// The first backbone, by id, that cannot be loaded, or is not there.
pub fn load_backbones(state_dir: &Path, wanted: &[String]) -> Result<Snapshot, AppError> {
    let folder = Backbones::new(state_dir);
    let chosen: Vec<(Name, Result<Backbone, BackboneError>)> = if wanted.is_empty() {
        let all = folder.list()?.into_iter().map(|listed| (listed.id, listed.backbone));
        all.filter(|(_, backbone)| backbone.as_ref().map_or(true, |b| b.manifest.enabled)).collect()
    } else {
        let names = wanted.iter().filter_map(|name| name.parse::<Name>().ok());
        names.map(|name| (name.clone(), folder.get(&name))).collect()
    };
    let loaded: Vec<Result<LiveBackbone, AppError>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            chosen.into_iter().map(|(id, found)| scope.spawn(move || load(&id, found))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(panicked())))
            .collect()
    });
    let mut snapshot = Snapshot::default();
    for backbone in loaded {
        let backbone = backbone?;
        snapshot.backbones.insert(backbone.name.clone(), Arc::new(backbone));
    }
    Ok(snapshot)
}

fn panicked() -> AppError {
    AppError::System { what: "a thread", reason: std::io::Error::other("a loader panicked") }
}

fn load(id: &Name, found: Result<Backbone, BackboneError>) -> Result<LiveBackbone, AppError> {
    let fault = |source| AppError::Backbone { id: id.to_string(), source };
    let backbone = found.map_err(fault)?;
    let labels = backbone.labels().map_err(fault)?;
    let network = backbone.load().map_err(fault)?;
    Ok(LiveBackbone {
        name: id.clone(),
        digest: network.digest(),
        origin: Origin::Added(backbone.manifest.added_at),
        preprocessing: backbone.manifest.preprocessing,
        labels,
        network,
    })
}

/// Loads one backbone: the one that is named, else the one that the daemon would let answer a
/// request that names none.
///
/// # Errors
/// [`EngineError::NothingLoaded`] where there is none; what is wrong with it.
pub fn load_backbone(state_dir: &Path, named: Option<&str>) -> Result<LiveBackbone, AppError> {
    let folder = Backbones::new(state_dir);
    if let Some(name) = named {
        let fault = |source| AppError::Backbone { id: name.to_owned(), source };
        let unfit = |error: InvalidName| fault(BackboneError::Mismatch(error.to_string()));
        let id: Name = name.parse().map_err(unfit)?;
        return load(&id, folder.get(&id));
    }
    let sound = folder.list()?.into_iter().filter_map(|listed| listed.backbone.ok());
    let enabled = sound.filter(|backbone| backbone.manifest.enabled);
    let latest = enabled.max_by_key(|backbone| backbone.manifest.added_at);
    let backbone = latest.ok_or(AppError::Engine(EngineError::NothingLoaded))?;
    let id = backbone.id.clone();
    load(&id, Ok(backbone))
}
