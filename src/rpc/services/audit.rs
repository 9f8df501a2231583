//! `ExplanationService.AuditDataset`: does a network look at the objects or at their backgrounds?

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Shared;
use super::blocking::blocking;
use crate::base::cancel::Cancel;
use crate::base::name::Name;
use crate::engine::{EngineError, ExplainOptions, Explained, Priority, Subject, Target};
use crate::explain::audit::{Audit as Findings, GRID, Look};
use crate::explain::{ClassName, ClassSpec};
use crate::proto::graft::audit_dataset_response::Part;
use crate::proto::graft::{AuditDatasetRequest, AuditDatasetResponse, AuditProgress, ClassAudit};
use crate::rpc::convert::explanation::Explain;
use crate::rpc::convert::field::{FieldError, Within, ranged};
use crate::rpc::convert::{sample, target};
use crate::rpc::status::RpcError;
use crate::store::{Filter, Sample};

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
        if !options.class.is_empty() {
            let problem = "must be empty: each sample's own class is explained";
            return Err(FieldError::new("options.class", problem));
        }
        let wanted: Explain = options.try_into().within("options")?;
        let per_class = ranged("samples_per_class", request.samples_per_class, 1..=10_000, 100)?;
        Ok(Self {
            shared,
            dataset: sample::name("dataset", &request.dataset)?,
            target: target::target(&request.head, &request.backbone)?,
            options: wanted.options,
            samples_per_class: per_class as usize,
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
        let total = classes.values().map(Vec::len).sum::<usize>() as u64;
        let mut done = 0;
        let mut failed: BTreeMap<String, u64> = BTreeMap::new();
        let mut findings = Findings::default();
        for (label, samples) in classes {
            for sample in samples {
                match self.explain(&label, &sample).await {
                    Ok(explained) => {
                        let map = &explained.explanation.map;
                        let look = Look::new(sample.id, map, None).map_err(EngineError::from)?;
                        findings.add(label.clone(), look);
                    }
                    Err(RpcError::Engine {
                        error: error @ (EngineError::DeadlineExceeded | EngineError::Draining),
                        ..
                    }) => return Err(error.into()),
                    Err(_) => *failed.entry(label.clone()).or_default() += 1,
                }
                done += 1;
                let progress = Part::Progress(AuditProgress { done, total });
                if !send(outbound, progress).await {
                    return Ok(());
                }
            }
        }
        for class in findings.finish() {
            let failed_count = failed.get(&class.class).copied().unwrap_or(0);
            let worst = class.deviations.into_iter().take(DEVIATING);
            let message = ClassAudit {
                label: class.class,
                sample_count: class.images as u64,
                failed_count,
                height: GRID as u32,
                width: GRID as u32,
                mean_map: class.mean_map,
                border_energy: class.border_energy,
                deviating_samples: worst.map(|deviation| deviation.image).collect(),
            };
            if !send(outbound, Part::Class(message)).await {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Up to the wanted number of samples of each class, spread evenly over the dataset.
    async fn samples(&self) -> Result<BTreeMap<String, Vec<Sample>>, RpcError> {
        let (learning, dataset) = (self.shared.learning.clone(), self.dataset.clone());
        let most = self.samples_per_class;
        blocking(move || {
            let filter = Filter { unlabelled: Some(false), ..Filter::default() };
            let mut classes: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
            let mut after = None;
            loop {
                let page = learning.store().samples(&dataset, &filter, after, PAGE)?;
                for sample in page.samples {
                    if let Some(label) = sample.labels.first().cloned() {
                        classes.entry(label).or_default().push(sample);
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
            }
            Ok(classes)
        })
        .await
    }

    async fn explain(&self, label: &str, sample: &Sample) -> Result<Explained, RpcError> {
        let learning = self.shared.learning.clone();
        let wanted = sample.clone();
        let image = blocking(move || Ok(learning.store().image_of(&wanted)?)).await?;
        let missing = || FieldError::new("dataset", "keeps no image of this sample");
        let image = image.ok_or_else(missing)?.bytes;
        let mut options = self.options.clone();
        options.request.class = ClassSpec::One(ClassName::Label(label.to_owned()));
        loop {
            let cancel = Cancel::with_deadline(self.deadline);
            cancel.check().map_err(EngineError::from)?;
            let subject = Subject::Encoded(image.clone().into());
            let (engine, options) = (&self.shared.engine, options.clone());
            let priority = Priority::Background;
            match engine.explain(priority, &self.target, subject, options, cancel) {
                Ok(ticket) => return Ok(ticket.await??),
                Err(EngineError::QueueFull { .. }) => tokio::time::sleep(PATIENCE).await,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether the caller still listens.
async fn send(outbound: &Outbound, part: Part) -> bool {
    outbound.send(Ok(AuditDatasetResponse { part: Some(part) })).await.is_ok()
}
