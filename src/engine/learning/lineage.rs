//! The versions that a new one is compared with: the live one, and the first and the best of its line.
//!
//! A *line* begins with a version that a person, or the policy `always`, made live, and goes on with
//! what went live because it was not worse. A version that went live so stays in its line when a person
//! returns to it. Compared with the live version alone, each new one could lose the tolerance anew,
//! and many small steps could lose everything; compared with the first and the best of the line on the
//! same held-out samples as well, all of them together lose it once.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::promotion::{Decision, Policy, Rival, Role};
use super::versions::HeadRecord;
use super::{LearningError, Promotion};
use crate::base::name::Name;
use crate::engine::{Engine, LiveHead, Target};
use crate::heads::Kind;
use crate::store::{Store, StoreError};
use crate::train::Report;

/// Where a version stands in its line, as stored with it; `None` is the version itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The version that the line began with.
    pub first: Option<u32>,
    /// The version with the best held-out accuracy.
    pub best: Option<u32>,
}

/// What is live, and the line in which it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    live: u32,
    first: u32,
    best: u32,
}

impl Standing {
    /// `None` where no version of the head is live.
    fn of(store: &Store, name: &Name) -> Result<Option<Self>, LearningError> {
        let live = match store.head(name) {
            Ok(head) => head.active,
            Err(StoreError::UnknownHead(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let Some(live) = live else { return Ok(None) };
        let versions = store.head_versions(name)?;
        let stored = versions.into_iter().find(|version| version.version == live);
        let record = stored.map(|stored| serde_json::from_str::<HeadRecord>(&stored.metadata));
        let line = record.transpose()?.map(|record| record.line).unwrap_or_default();
        let (first, best) = (line.first.unwrap_or(live), line.best.unwrap_or(live));
        Ok(Some(Self { live, first, best }))
    }
}

/// Versions of a line that must stay, so that later ones can be compared with them.
pub(super) fn kept(store: &Store, name: &Name) -> Result<Vec<u32>, LearningError> {
    let standing = Standing::of(store, name)?;
    Ok(standing.map_or_else(Vec::new, |found| vec![found.first, found.best]))
}

/// The versions that a new one has to stand beside.
pub(super) struct Rivals {
    standing: Option<Standing>,
    /// Each once, the live one first; without it none.
    heads: Vec<(Role, Arc<LiveHead>)>,
}

impl Rivals {
    pub(super) fn of(engine: &Engine, store: &Store, name: &Name) -> Result<Self, LearningError> {
        let standing = Standing::of(store, name)?;
        let mut heads = Vec::new();
        if let Some(Standing { live, first, best }) = standing {
            let snapshot = engine.snapshot();
            let head = |version| {
                let target = Target::Head { name: name.to_string(), version: Some(version) };
                // One that was deleted, is damaged or lacks its backbone cannot be compared with.
                snapshot.resolve(&target).ok().and_then(|by| by.head)
            };
            if let Some(found) = head(live) {
                heads.push((Role::Live, found));
                let others = [(Role::Best(best), best), (Role::First(first), first)];
                for (role, version) in others {
                    if heads.iter().all(|(_, known)| known.version != version)
                        && let Some(found) = head(version)
                    {
                        heads.push((role, found));
                    }
                }
            }
        }
        Ok(Self { standing, heads })
    }

    /// The version that is live.
    pub(super) fn live(&self) -> Option<u32> {
        self.standing.map(|standing| standing.live)
    }

    /// Judges each by `judge`, which gives `None` for one that it cannot judge on the same samples as
    /// the new one, which is of kind `new`. `None` where no version is live, nothing in it where the
    /// live one was not judged.
    ///
    /// # Errors
    /// Those of `judge`.
    pub(super) fn judge(
        &self,
        new: Kind,
        mut judge: impl FnMut(&LiveHead) -> Result<Option<Report>, LearningError>,
    ) -> Result<Option<Vec<Rival>>, LearningError> {
        if self.standing.is_none() {
            return Ok(None);
        }
        let mut judged = Vec::with_capacity(self.heads.len());
        for (role, head) in &self.heads {
            // Whole sets of labels that are right and first labels that are right are no two shares of
            // the same.
            let in_sets = |kind| kind == Kind::MultiLabel;
            let comparable = in_sets(head.head.kind()) == in_sets(new);
            match if comparable { judge(head)? } else { None } {
                Some(report) => judged.push(Rival { role: *role, report }),
                None if *role == Role::Live => break,
                None => {}
            }
        }
        Ok(Some(judged))
    }

    /// Where the new version will stand.
    pub(super) fn line(
        &self,
        promotion: &Promotion,
        decision: &Decision,
        new: Option<&Report>,
        judged: Option<&[Rival]>,
    ) -> Line {
        let by_itself = promotion.policy == Policy::IfBetter && decision.promote;
        let (Some(standing), Some(new), Some(judged), true) =
            (self.standing, new, judged, by_itself)
        else {
            return Line::default();
        };
        let best = judged.iter().find(|rival| match rival.role {
            Role::Best(_) => true,
            Role::Live => standing.best == standing.live,
            Role::First(_) => false,
        });
        let is_best = best.is_none_or(|best| new.accuracy > best.report.accuracy);
        Line { first: Some(standing.first), best: (!is_best).then_some(standing.best) }
    }
}
