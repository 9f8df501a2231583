//! The state folder and what is loaded from it: the same for the daemon and for commands without
//! one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::AppError;
use crate::backbones::{BUILT_IN, Backbone, BackboneError, Backbones};
use crate::base::name::{InvalidName, Name};
use crate::engine::{LiveBackbone, Snapshot};

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

/// What is to be loaded.
enum Chosen {
    BuiltIn,
    Installed(Name, Box<Result<Backbone, BackboneError>>),
}

/// Loads the named backbones, or the built-in one and all enabled ones where `wanted` is empty, on
/// all cores.
///
/// # Errors
/// The first backbone, by id, that cannot be loaded, or is not there.
pub fn load_backbones(state_dir: &Path, wanted: &[String]) -> Result<Snapshot, AppError> {
    let folder = Backbones::new(state_dir);
    let chosen: Vec<Chosen> = if wanted.is_empty() {
        let enabled = |backbone: &Result<Backbone, BackboneError>| {
            backbone.as_ref().map_or(true, |backbone| backbone.manifest.enabled)
        };
        let all = folder.list()?.into_iter().filter(|listed| enabled(&listed.backbone));
        let installed = all.map(|listed| Chosen::Installed(listed.id, Box::new(listed.backbone)));
        std::iter::once(Chosen::BuiltIn).chain(installed).collect()
    } else {
        wanted.iter().map(|name| choose(&folder, name)).collect::<Result<_, _>>()?
    };
    let loaded: Vec<Result<LiveBackbone, AppError>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            chosen.into_iter().map(|chosen| scope.spawn(move || load(chosen))).collect();
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
    let on_device = folder.list()?.into_iter().map(|listed| listed.id).chain(BUILT_IN.parse().ok());
    snapshot.unloaded = on_device.filter(|id| !snapshot.backbones.contains_key(id)).collect();
    Ok(snapshot)
}

/// Loads one backbone: the one that is named, else the one that the daemon would let answer a
/// request that names none.
///
/// # Errors
/// What is wrong with it.
pub fn load_backbone(state_dir: &Path, named: Option<&str>) -> Result<LiveBackbone, AppError> {
    let folder = Backbones::new(state_dir);
    if let Some(name) = named {
        return load(choose(&folder, name)?);
    }
    let sound = folder.list()?.into_iter().filter_map(|listed| listed.backbone.ok());
    let enabled = sound.filter(|backbone| backbone.manifest.enabled);
    let latest = enabled.max_by_key(|backbone| backbone.manifest.added_at);
    load(latest.map_or(Chosen::BuiltIn, |backbone| {
        Chosen::Installed(backbone.id.clone(), Box::new(Ok(backbone)))
    }))
}

fn choose(folder: &Backbones, name: &str) -> Result<Chosen, AppError> {
    if name == BUILT_IN {
        return Ok(Chosen::BuiltIn);
    }
    let unfit = |error: InvalidName| fault(name, BackboneError::Mismatch(error.to_string()));
    let id: Name = name.parse().map_err(unfit)?;
    let found = Box::new(folder.get(&id));
    Ok(Chosen::Installed(id, found))
}

fn load(chosen: Chosen) -> Result<LiveBackbone, AppError> {
    match chosen {
        Chosen::BuiltIn => LiveBackbone::built_in().map_err(|source| fault(BUILT_IN, source)),
        Chosen::Installed(id, found) => found
            .and_then(|backbone| LiveBackbone::installed(&backbone))
            .map_err(|source| fault(id.as_str(), source)),
    }
}

fn fault(id: &str, source: BackboneError) -> AppError {
    AppError::Backbone { id: id.to_owned(), source }
}

fn panicked() -> AppError {
    AppError::System { what: "a thread", reason: std::io::Error::other("a loader panicked") }
}
