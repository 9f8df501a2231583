//! Heads that follow their dataset: each new sample is learnt as it arrives, without a training
//! (streaming LDA, [`StreamingLda`]).
//!
//! A head follows while its newest version is live and was trained with `follow_dataset`. A person
//! who rolls back or activates another version thereby stops it; activating the newest version, or
//! another training, lets it go on.
//!
//! One thread keeps the running statistics. News is gathered for a moment, the new samples are read
//! from the store in the order of arrival, and the new weights become a version of their own: stored,
//! judged by the training's promotion policy on the held-out samples (`lineage`), then live. What does not go
//! live is not stored; the next sample tries again. The samples in the store are the statistics' log:
//! at the start, and after a sample was corrected or deleted, they are made anew from it, in the same
//! order and so to the same bits. (What a quota dropped stays learnt until then.)

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::embedding::embed_missing;
use super::labelled::{Labelled, Reading, Several};
use super::lineage::{self, Rivals};
use super::low_priority::{self, guarded, lower_priority};
use super::versions::{self, Follow, HeadRecord, Learnt};
use super::{LearningError, decide, training};
use crate::base::cancel::Cancel;
use crate::base::digest::Digest;
use crate::base::name::Name;
use crate::engine::{Engine, LiveBackbone, Target};
use crate::heads::{Head, Provenance};
use crate::store::{SampleKey, Split, Store};
use crate::train::{self, StreamingLda};

/// How long news is gathered, so that the samples of a stream share a version.
const GATHER: Duration = Duration::from_millis(40);
/// Samples read from the store at once.
const BLOCK: usize = 64;
/// Held-out samples that set temperature and threshold and judge a version: the first to arrive.
const HELD_OUT: usize = 2000;
/// Versions made while following that are kept; those of trainings are counted by themselves.
const KEPT: usize = 3;
/// Samples up to which a version notes the digest of its dataset, which reads all of them.
const DIGESTED: u64 = 5000;
/// Heads that may follow at a time; the statistics of one take 13 MB for 1280 features.
pub(super) const MAXIMUM: usize = 8;

/// The thread, and the way to tell it news.
pub(super) struct Following {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Tells news.
#[derive(Clone)]
pub(super) struct Herald(Arc<Shared>);

struct Shared {
    engine: Arc<Engine>,
    store: Store,
    state: Mutex<State>,
    /// Signalled at news and when the daemon stops.
    changed: Condvar,
    cancel: Cancel,
}

#[derive(Default)]
struct State {
    news: BTreeMap<Name, News>,
    /// Look at every head.
    look: bool,
    closing: bool,
}

/// What happened in a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum News {
    /// A sample came.
    Arrived,
    /// One changed or went.
    Corrected,
}

/// A head that follows, as stored.
struct Followed {
    name: Name,
    version: u32,
    record: HeadRecord,
    follow: Follow,
}

/// What the thread knows of a head.
struct Learner {
    statistics: StreamingLda,
    through: Option<SampleKey>,
    samples: u64,
    learnt: Learnt,
    /// The version that these statistics were last published as.
    version: u32,
}

impl Following {
    pub(super) fn start(engine: Arc<Engine>, store: Store) -> Result<Self, LearningError> {
        let state = Mutex::new(State { look: true, ..State::default() });
        let (changed, cancel) = (Condvar::new(), Cancel::default());
        let shared = Arc::new(Shared { engine, store, state, changed, cancel });
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("graftd-follow".to_owned())
            .spawn(move || own.serve())
            .map_err(|error| LearningError::Thread(error.to_string()))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(super) fn herald(&self) -> Herald {
        Herald(Arc::clone(&self.shared))
    }

    /// A sample came.
    pub(super) fn arrived(&self, dataset: &Name) {
        self.shared.tell(dataset, News::Arrived);
    }

    /// The label or side of a sample changed, or it went.
    pub(super) fn corrected(&self, dataset: &Name) {
        self.shared.tell(dataset, News::Corrected);
    }

    /// Some head may have begun to follow.
    pub(super) fn look(&self) {
        self.herald().look();
    }
}

impl Herald {
    /// Some head may have begun to follow.
    pub(super) fn look(&self) {
        self.0.lock().look = true;
        self.0.changed.notify_all();
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.cancel.cancel();
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Whether a head follows its dataset; one that there is not does not.
pub(super) fn follows(store: &Store, name: &Name) -> Result<bool, LearningError> {
    Ok(followed(store)?.iter().any(|head| head.name == *name))
}

/// How many heads follow their dataset.
pub(super) fn count(store: &Store) -> Result<usize, LearningError> {
    Ok(followed(store)?.len())
}

/// The dataset that a head follows: its newest version must be live and say so.
pub(super) fn of(store: &Store, head: &crate::store::Head) -> Result<Option<Name>, LearningError> {
    Ok(followed_one(store, head)?.map(|found| found.follow.dataset))
}

fn followed(store: &Store) -> Result<Vec<Followed>, LearningError> {
    let mut found = Vec::new();
    for head in store.heads()? {
        found.extend(followed_one(store, &head)?);
    }
    Ok(found)
}

fn followed_one(
    store: &Store,
    head: &crate::store::Head,
) -> Result<Option<Followed>, LearningError> {
    let versions = store.head_versions(&head.name)?;
    let Some(newest) = versions.last().filter(|newest| head.active == Some(newest.version)) else {
        return Ok(None);
    };
    let record: HeadRecord = serde_json::from_str(&newest.metadata)?;
    let (name, version) = (head.name.clone(), newest.version);
    Ok(record.follow.clone().map(|follow| Followed { name, version, record, follow }))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, dataset: &Name, news: News) {
        let mut state = self.lock();
        let known = state.news.entry(dataset.clone()).or_insert(news);
        *known = news.max(*known);
        drop(state);
        self.changed.notify_all();
    }

    /// Waits for news and for what comes right behind it; `None` once the daemon stops.
    fn next(&self) -> Option<(BTreeMap<Name, News>, bool)> {
        let mut state = self.lock();
        while !state.closing && !state.look && state.news.is_empty() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let until_closing = |state: &mut State| !state.closing;
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, GATHER, until_closing)
            .unwrap_or_else(PoisonError::into_inner);
        let look = std::mem::take(&mut state.look);
        (!state.closing).then(|| (std::mem::take(&mut state.news), look))
    }

    fn serve(&self) {
        lower_priority();
        let pool = match low_priority::pool() {
            Ok(pool) => pool,
            Err(error) => {
                tracing::error!(%error, "no threads for heads that follow their dataset");
                return;
            }
        };
        let mut learners = HashMap::new();
        while let Some((news, look)) = self.next() {
            let heads = followed(&self.store).unwrap_or_else(|error| {
                tracing::error!(%error, "the heads that follow could not be read");
                Vec::new()
            });
            learners.retain(|name, _| heads.iter().any(|head| head.name == *name));
            for head in heads.into_iter().take(MAXIMUM) {
                let news = news.get(&head.follow.dataset).copied();
                let Some(news) = news.or(look.then_some(News::Arrived)) else { continue };
                let name = head.name.clone();
                match guarded(|| pool.install(|| self.follow(head, news, &mut learners))) {
                    Ok(()) => {}
                    Err(error) if error.is_cancelled() => return,
                    Err(error) => {
                        // It begins anew with the next news.
                        learners.remove(&name);
                        tracing::warn!(head = %name, %error, "a head could not follow its dataset");
                    }
                }
            }
        }
    }

    /// Learns what is new to one head and makes that live.
    fn follow(
        &self,
        head: Followed,
        news: News,
        learners: &mut HashMap<Name, Learner>,
    ) -> Result<(), LearningError> {
        let dataset = &head.follow.dataset;
        let target = Target::Backbone(head.record.backbone.to_string());
        let backbone = self.engine.snapshot().resolve(&target)?.backbone;
        let known = learners
            .remove(&head.name)
            .filter(|known| known.version == head.version && news == News::Arrived);
        let mut learner = match known {
            Some(known) => known,
            None => Learner::new(backbone.network.embedding().width, head.version)?,
        };
        // What is newer comes with the next news, embedded by then.
        let newest = self.store.newest_sample(dataset)?;
        let (engine, store, after) = (&self.engine, &self.store, learner.through);
        embed_missing(engine, store, dataset, &backbone, after, &self.cancel, &mut |_| {})?;
        if let Some(newest) = newest {
            learner.learn(&self.store, dataset, backbone.embedding_key(), newest, &self.cancel)?;
        }
        let live_knows = learner.samples == head.follow.samples
            && learner.through.map_or(0, SampleKey::to_token) == head.follow.through
            && head.follow.learnt.as_ref().is_none_or(|known| *known == learner.learnt.to_text());
        if (!live_knows || news == News::Corrected) && learner.statistics.classes().len() >= 2 {
            learner.version = self.publish(&head, &learner, &backbone)?.unwrap_or(head.version);
        }
        learners.insert(head.name, learner);
        Ok(())
    }

    /// Stores the weights as a version and makes it live, if the policy lets it.
    fn publish(
        &self,
        followed: &Followed,
        learner: &Learner,
        backbone: &LiveBackbone,
    ) -> Result<Option<u32>, LearningError> {
        let Followed { name, record, follow, .. } = followed;
        let options = record.options.clone().unwrap_or_default();
        let key = backbone.embedding_key();
        let reading =
            Reading { most: Some(HELD_OUT), ..Reading::of(Split::HeldOut, Several::Skip) };
        let held_out = Labelled::read(&self.store, &follow.dataset, key, reading, &self.cancel)?;
        let rows = held_out.rows();
        let samples = rows.as_ref().map(|rows| held_out.samples(rows));
        let (balance, rate) = (options.balance_classes, options.false_alarm_rate);
        let head = learner.statistics.head(balance, samples.as_ref(), rate, &self.cancel)?;
        let judge = |head: &Head| {
            let judged = samples.as_ref().map(|s| train::evaluate(head, s, &self.cancel));
            Ok::<_, LearningError>(judged.transpose()?)
        };
        let new = judge(&head)?;
        let rivals = Rivals::of(&self.engine, &self.store, name)?;
        let judged = rivals.judge(head.kind(), |rival| {
            if rival.backbone == record.backbone { judge(&rival.head) } else { Ok(None) }
        })?;
        let decision = decide(&follow.promotion, new.as_ref(), judged.as_deref());
        if !decision.promote {
            tracing::info!(head = %name, reason = decision.message, "not live");
            return Ok(None);
        }
        let line = rivals.line(&follow.promotion, &decision, new.as_ref(), judged.as_deref());
        let scores =
            new.map(|report| serde_json::to_value(training::scores(&report))).transpose()?;
        let head = head.with_provenance(Provenance {
            backbone: record.backbone.to_string(),
            backbone_sha256: backbone.network.digest().to_string(),
            embeddings: backbone.embedding_key().to_string(),
            dataset: follow.dataset.to_string(),
            dataset_snapshot: self.snapshot(&follow.dataset, learner)?,
            samples: learner.samples,
            seed: options.seed,
            options: serde_json::to_value(&options)?,
            scores: scores.unwrap_or_default(),
        });
        let follow = Follow {
            samples: learner.samples,
            through: learner.through.map_or(0, SampleKey::to_token),
            learnt: Some(learner.learnt.to_text()),
            ..follow.clone()
        };
        let record = HeadRecord {
            backbone: record.backbone.clone(),
            job: None,
            options: Some(options),
            report: None,
            about: None,
            follow: Some(follow),
            line,
        };
        let version = versions::add(&self.store, name, &head, &record)?;
        if !self.store.replace_active_head_version(name, Some(followed.version), version)? {
            // Somebody made another version live meanwhile, which stops the following.
            self.store.delete_head_version(name, version)?;
            return Ok(None);
        }
        versions::publish(&self.engine, &self.store, name)?;
        // It is live: what cannot be deleted now goes with the next one.
        if let Err(error) = self.thin(name) {
            tracing::warn!(head = %name, %error, "old versions could not be deleted");
        }
        Ok(Some(version))
    }

    /// SHA-256 of the dataset; where it is too large to be read for every version, what was learnt of it.
    fn snapshot(&self, dataset: &Name, learner: &Learner) -> Result<String, LearningError> {
        if self.store.dataset_stats(dataset)?.samples > DIGESTED {
            return Ok(learnt(learner.samples, learner.through));
        }
        Ok(self.store.snapshot(dataset)?.digest.to_string())
    }

    /// Deletes all but the latest versions that following made, and those that later ones are
    /// compared with.
    fn thin(&self, name: &Name) -> Result<(), LearningError> {
        let made = |version: &crate::store::HeadVersion| {
            serde_json::from_str::<HeadRecord>(&version.metadata)
                .is_ok_and(|record| record.follow.is_some() && record.job.is_none())
        };
        let versions = self.store.head_versions(name)?;
        let own: Vec<u32> = versions.iter().filter(|v| made(v)).map(|v| v.version).collect();
        let old = &own[..own.len().saturating_sub(KEPT)];
        if !old.is_empty() {
            let line = lineage::kept(&self.store, name)?;
            let old: Vec<u32> = old.iter().copied().filter(|v| !line.contains(v)).collect();
            self.store.thin_head_versions(name, &old)?;
            versions::publish(&self.engine, &self.store, name)?;
        }
        Ok(())
    }
}

/// How many samples were learnt, and the key of the newest, which no other sample ever has.
fn learnt(samples: u64, through: Option<SampleKey>) -> String {
    format!("samples={samples} newest={}", through.map_or(0, SampleKey::to_token))
}

impl Learner {
    fn new(width: usize, version: u32) -> Result<Self, LearningError> {
        let (statistics, learnt) = (StreamingLda::new(width)?, Learnt::default());
        Ok(Self { statistics, through: None, samples: 0, learnt, version })
    }

    /// Learns the training samples with one label that it has not seen, up to and with `newest`.
    fn learn(
        &mut self,
        store: &Store,
        dataset: &Name,
        key: Digest,
        newest: SampleKey,
        cancel: &Cancel,
    ) -> Result<(), LearningError> {
        let split = Some(Split::Train);
        let blocks = store.embeddings_between(dataset, key, split, self.through, newest, BLOCK)?;
        let width = blocks.width().max(1);
        for block in blocks {
            let block = block?;
            for (sample, row) in block.samples.iter().zip(block.values.chunks_exact(width)) {
                cancel.check()?;
                if let [label] = sample.labels.as_slice() {
                    let values: Vec<f32> = row.iter().map(|half| half.to_f32()).collect();
                    if self.statistics.add(&values, label)? {
                        self.samples += 1;
                        self.learnt.add(&sample.id, label);
                    }
                }
            }
        }
        self.through = self.through.max(Some(newest));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_of_a_large_dataset_says_how_many_samples_it_learnt_and_which_came_last() {
        let newest = SampleKey::from_token(12_884_971_888);
        assert_eq!(learnt(56_000, Some(newest)), "samples=56000 newest=12884971888");
        assert_eq!(learnt(0, None), "samples=0 newest=0");
    }
}
