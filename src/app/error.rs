//! Why the daemon does not start, or stops.

use std::path::PathBuf;

use super::Mistake;
use crate::backbones::{BUILT_IN, BackboneError};
use crate::base::name::Name;
use crate::engine::learning::LearningError;
use crate::rpc::ServerError;
use crate::store::StoreError;

/// A fault that ends the program, in words for a person.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The configuration is wrong.
    #[error("{}", listed(.0))]
    Config(Vec<Mistake>),
    /// The state folder cannot be used.
    #[error("the state folder {} cannot be used: {reason}", path.display())]
    StateDir {
        /// The folder.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is stored cannot be made live.
    #[error(transparent)]
    Learning(#[from] LearningError),
    /// A backbone cannot be loaded.
    #[error("backbone {id:?} cannot be loaded: {source}{}", advice(.id, .source))]
    Backbone {
        /// Its id.
        id: String,
        /// Why.
        source: BackboneError,
    },
    /// The folder of backbones cannot be read.
    #[error(transparent)]
    Backbones(#[from] BackboneError),
    /// The port cannot be had.
    #[error("{0}")]
    Listen(std::io::Error),
    /// The system refuses threads or signals.
    #[error("the system refuses {what}: {reason}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// The system's words.
        reason: std::io::Error,
    },
    /// The server failed while it ran.
    #[error(transparent)]
    Server(#[from] ServerError),
}

/// What to do about a backbone that is there but cannot be loaded.
fn advice(id: &str, error: &BackboneError) -> String {
    if matches!(error, BackboneError::Unknown(_)) || id == BUILT_IN || id.parse::<Name>().is_err() {
        return String::new();
    }
    format!("; remove it with `graftd models remove {id}`")
}

fn listed(mistakes: &[Mistake]) -> String {
    let lines = mistakes.iter().map(|mistake| format!("\n  {}: {}", mistake.key, mistake.reason));
    let count = mistakes.len();
    let noun = if count == 1 { "mistake" } else { "mistakes" };
    format!("{count} {noun} in the configuration:{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_need_not_be_removed() {
        let message =
            |source: BackboneError| AppError::Backbone { id: "nope".into(), source }.to_string();
        let unknown = message(BackboneError::Unknown("nope".parse().unwrap()));
        assert!(!unknown.contains("remove"), "{unknown}");
        let refused = message(BackboneError::Refused("it is broken".into()));
        assert!(refused.contains("graftd models remove nope"), "{refused}");
    }
}
