//! `ExplanationService.AuditDataset`: does a network look at the objects or at their backgrounds?

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Shared;
use super::blocking::blocking;
use crate::base::cancel::Cancel;
use crate::base::name::Name;
use crate::engine::learning::LearningError;
use crate::engine::{Answerer, Beside, EngineError, ExplainOptions, Explained, Subject, Target};
use crate::explain::audit::{Audit as Findings, ClassAudit as Finding, GRID, Look};
use crate::explain::{ClassName, ClassSpec, ExplainError};
use crate::heads::HeadError;
use crate::proto::graft::audit_dataset_response::Part;
use crate::proto::graft::{
    AuditDatasetRequest, AuditDatasetResponse, AuditProgress, ClassAudit, Failure,
};
use crate::rpc::convert::explanation::boxes_of_samples;
use crate::rpc::convert::field::{FieldError, Within, ranged};
use crate::rpc::convert::{sample, target};
use crate::rpc::error::RpcError;
use crate::rpc::resolve::resolve;
use crate::store::{Filter, Keep, SampleKey, StoreError};
use crate::vision::BoundingBox;

/// Samples listed at one time.
const PAGE: usize = 256;
/// Deviating samples named a class.
const DEVIATING: usize = 10;
/// How long an audit waits where the queue of explanations is full.
const PATIENCE: Duration = Duration::from_millis(100);

/// What is audited.
pub(super) struct Audit {
    shared: Shared,
    dataset: Name,
    target: Target,
    options: ExplainOptions,
    samples_per_class: usize,
    /// Where the objects are, by sample.
    boxes: HashMap<String, Vec<BoundingBox>>,
    deadline: Option<Instant>,
}

type Outbound = mpsc::Sender<Result<AuditDatasetResponse, Status>>;

impl Audit {
    /// Checks the request.
    pub(super) fn new(
        shared: Shared,
        request: AuditDatasetRequest,
        deadline: Option<Instant>,
    ) -> Result<Self, FieldError> {
        let options = request.options.unwrap_or_default();
        let senseless = [
            (
                "class",
                !options.class.is_empty(),
                "must be empty: each sample's own class is explained",
            ),
            ("overlay", options.overlay.is_some(), "must be absent: an audit returns no overlays"),
            ("photograph_map", options.photograph_map, "must be false: an audit returns mean maps"),
            ("quality", options.quality, "must be false: an audit measures no curves"),
            (
                "true_boxes",
                !options.true_boxes.is_empty(),
                "must be empty: every sample has its own, which the request's own true_boxes take",
            ),
        ];
        if let Some((field, _, problem)) = senseless.into_iter().find(|(_, set, _)| *set) {
            return Err(FieldError::new(field, problem).within("options"));
        }
        let options: ExplainOptions = options.try_into().within("options")?;
        let per_class = ranged("samples_per_class", request.samples_per_class, 1..=10_000, 100)?;
        Ok(Self {
            shared,
            dataset: sample::name("dataset", &request.dataset)?,
            target: target::target(&request.head, &request.backbone)?,
            options,
            samples_per_class: per_class as usize,
            boxes: boxes_of_samples(&request.true_boxes)?,
            deadline,
        })
    }

    /// Progress, then one message a class. Ends when the caller hangs up.
    pub(super) fn run(self) -> ReceiverStream<Result<AuditDatasetResponse, Status>> {
        let (outbound, answers) = mpsc::channel(4);
        tokio::spawn(async move {
            let closed = outbound.clone();
            tokio::select! {
                () = closed.closed() => {}
                end = self.all_classes(&outbound) => {
                    if let Err(error) = end {
                        let _ = outbound.send(Err(error.into())).await;
                    }
                }
            }
        });
        ReceiverStream::new(answers)
    }

    async fn all_classes(&self, outbound: &Outbound) -> Result<(), RpcError> {
        let classes = self.samples().await?;
        let by = resolve(self.shared.engine.snapshot(), &self.target).await?;
        let total = classes.values().map(Vec::len).sum::<usize>() as u64;
        let mut done = 0;
        let mut audited = Vec::with_capacity(classes.len());
        for (label, samples) in classes {
            let (mut findings, mut failures) = (Findings::default(), Failures::default());
            for sample in samples {
                match self.look(&by, &label, sample).await {
                    Ok(look) => findings.add(label.clone(), look),
                    Err(error) if is_of_one_sample(&error) => failures.add(error),
                    Err(error) => return Err(error),
                }
                done += 1;
                let progress = Part::Progress(AuditProgress { done, total });
                if !send(outbound, progress).await {
                    return Ok(());
                }
            }
            // Up to ten thousand maps, gone before the next class has any.
            let finding = blocking(move || Ok(findings.finish().pop())).await?;
            audited.push(class_audit(label, finding, failures));
        }
        for class in audited {
            if !send(outbound, Part::Class(class)).await {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Up to the wanted number of samples of each class, spread evenly over the dataset. One at
    /// least, and one at least with a photograph. Only their keys: a dataset may hold millions.
    async fn samples(&self) -> Result<BTreeMap<String, Vec<SampleKey>>, RpcError> {
        let (learning, dataset) = (self.shared.learning.clone(), self.dataset.clone());
        let most = self.samples_per_class;
        blocking(move || {
            let store = learning.store();
            let filter = Filter { unlabelled: Some(false), ..Filter::default() };
            let mut classes: BTreeMap<String, Vec<SampleKey>> = BTreeMap::new();
            let mut after = None;
            loop {
                let page = store.samples(&dataset, &filter, after, PAGE)?;
                for sample in page.samples {
                    let key = sample.key();
                    if let Some(label) = sample.labels.into_iter().next() {
                        classes.entry(label).or_default().push(key);
                    }
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            for samples in classes.values_mut() {
                let count = samples.len();
                let mut index = 0;
                samples.retain(|_| {
                    index += 1;
                    index * most / count.max(1) > (index - 1) * most / count.max(1)
                });
                samples.shrink_to_fit();
            }
            if classes.is_empty() {
                let text = format!("dataset {:?} holds no labelled sample", dataset.as_str());
                return Err(LearningError::NoSamples(text).into());
            }
            for key in classes.values().flatten() {
                let sample = store.sample_with_key(*key)?;
                let kept = sample.map(|sample| store.kept(&sample)).transpose()?;
                if kept.is_some_and(|kept| kept != Keep::Embeddings) {
                    return Ok(classes);
                }
            }
            let dataset = dataset.as_str();
            let text = format!("dataset {dataset:?} keeps no photographs, which an audit needs");
            Err(LearningError::NoSamples(text).into())
        })
        .await
    }

    /// Where the network looks on one sample.
    async fn look(&self, by: &Answerer, label: &str, key: SampleKey) -> Result<Look, RpcError> {
        let learning = self.shared.learning.clone();
        let (id, image) = blocking(move || {
            let store = learning.store();
            let missing = |what: &str| LearningError::NoSamples(what.to_owned());
            let gone = || missing("the sample was deleted meanwhile");
            let sample = store.sample_with_key(key)?.ok_or_else(gone)?;
            let image = store.image_of(&sample)?;
            let image = image.ok_or_else(|| missing("the sample has no photograph"))?;
            Ok((sample.id, Bytes::from(image.bytes)))
        })
        .await?;
        let explained = self.explain(by, label, image).await?;
        let boxes = self.boxes.get(&id).map(Vec::as_slice);
        let truth = boxes.map(|boxes| (boxes, &explained.placement));
        let look = Look::new(id, &explained.explanation.map, truth);
        Ok(look.map_err(EngineError::from)?)
    }

    async fn explain(
        &self,
        by: &Answerer,
        label: &str,
        image: Bytes,
    ) -> Result<Explained, RpcError> {
        let mut options = self.options.clone();
        options.request.class = ClassSpec::One(ClassName::Label(label.to_owned()));
        loop {
            let cancel = Cancel::with_deadline(self.deadline);
            cancel.check().map_err(EngineError::from)?;
            let subject = Subject::Encoded(image.clone());
            let (engine, options) = (&self.shared.engine, options.clone());
            let beside = Beside::Predictions;
            match engine.explain_by(beside, by.clone(), subject, options, cancel) {
                Ok(ticket) => return Ok(ticket.await??),
                Err(EngineError::QueueFull { .. }) => tokio::time::sleep(PATIENCE).await,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What could not be explained of a class.
#[derive(Default)]
struct Failures {
    count: u64,
    /// What was wrong with the first.
    first: Option<String>,
}

impl Failures {
    fn add(&mut self, error: RpcError) {
        self.count += 1;
        self.first.get_or_insert_with(|| Failure::from(error).message);
    }
}

/// Whether the next sample may fare better. All else (an unknown backbone or layer, a deadline) ends
/// the audit.
fn is_of_one_sample(error: &RpcError) -> bool {
    #[allow(clippy::wildcard_enum_match_arm)] // every error but these
    match error {
        RpcError::Learning(error, _) => matches!(
            error,
            LearningError::NoSamples(_) | LearningError::Store(StoreError::Corrupt(_))
        ),
        RpcError::Engine(error, _) => matches!(
            error,
            EngineError::Picture(_)
                | EngineError::Head(HeadError::NotFinite { .. })
                | EngineError::Explain(
                    ExplainError::UnknownLabel(_)
                        | ExplainError::AmbiguousLabel { .. }
                        | ExplainError::NotFinite(_)
                )
        ),
        _ => false,
    }
}

/// The message about one class; without a finding where none of its samples could be explained.
fn class_audit(label: String, finding: Option<Finding>, failures: Failures) -> ClassAudit {
    let mut class = ClassAudit {
        label,
        failed_count: failures.count,
        failure: failures.first.unwrap_or_default(),
        height: GRID as u32,
        width: GRID as u32,
        mean_map: vec![0.0; GRID * GRID],
        ..ClassAudit::default()
    };
    if let Some(finding) = finding {
        let worst = finding.deviations.into_iter().take(DEVIATING);
        class.sample_count = finding.images as u64;
        class.without_evidence_count = finding.without_evidence as u64;
        class.mean_map = finding.mean_map;
        class.border_energy = finding.border_energy;
        class.outside_energy = finding.outside_energy;
        class.deviating_samples = worst.map(|deviation| deviation.image).collect();
    }
    class
}

/// Whether the caller still listens.
async fn send(outbound: &Outbound, part: Part) -> bool {
    outbound.send(Ok(AuditDatasetResponse { part: Some(part) })).await.is_ok()
}
