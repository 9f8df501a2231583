//! `TrainingService`: training as jobs.

use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::Shared;
use super::blocking::blocking;
use crate::engine::learning::{Job, Learning, Policy, TrainingRequest};
use crate::engine::{EngineError, HeadVersions, Target};
use crate::proto::graft as wire;
use crate::proto::graft::training_service_server::TrainingService;
use crate::proto::graft::{
    CancelJobRequest, CancelJobResponse, GetJobRequest, GetJobResponse, ListJobsRequest,
    ListJobsResponse, StartFineTuningRequest, StartFineTuningResponse, StartTrainingRequest,
    StartTrainingResponse, WatchJobRequest, WatchJobResponse,
};
use crate::rpc::convert::field::{FieldError, Within, known, ranged};
use crate::rpc::convert::job::{self as convert, job_id, optional_name};
use crate::rpc::convert::sample::name;
use crate::rpc::error::RpcError;
use crate::rpc::item_stream;
use crate::store::JobId;

/// The service.
#[derive(Clone, Debug)]
pub struct Training {
    shared: Shared,
}

impl Training {
    /// Trains with what `shared` holds.
    pub fn new(shared: Shared) -> Self {
        Self { shared }
    }
}

/// What is asked, with the backbone that is meant where none is named: the head's own, loaded or not,
/// and for a new head the device's choice.
fn request(
    learning: &Learning,
    request: StartTrainingRequest,
) -> Result<TrainingRequest, RpcError> {
    let head = name("head", &request.head)?;
    let snapshot = learning.engine().snapshot();
    let backbone = if let Some(backbone) = optional_name("backbone", &request.backbone)? {
        backbone
    } else {
        let known = snapshot.heads.get(&head).and_then(HeadVersions::backbone);
        match known {
            Some(backbone) => backbone.clone(),
            None => snapshot.resolve(&Target::Default)?.backbone.name.clone(),
        }
    };
    let options = convert::options(request.options.unwrap_or_default()).within("options")?;
    let promotion = convert::promotion(request.promotion).within("promotion")?;
    if options.follow_dataset && promotion.policy == Policy::Manual {
        let problem = "must be if better or always for a head that follows its dataset";
        return Err(FieldError::new("promotion.policy", problem).into());
    }
    let dataset = name("dataset", &request.dataset)?;
    Ok(TrainingRequest { head, dataset, backbone, options, promotion })
}

/// The job that is to begin again.
fn restarted(request: &StartTrainingRequest) -> Result<JobId, FieldError> {
    let restart_job = request.restart_job.clone();
    if *request != (StartTrainingRequest { restart_job, ..StartTrainingRequest::default() }) {
        let problem = "must be the only field: what was asked then is asked again";
        return Err(FieldError::new("restart_job", problem));
    }
    job_id("restart_job", &request.restart_job)
}

/// Which jobs a listing wants.
struct Wanted {
    state: wire::JobState,
    kind: wire::JobKind,
    head: String,
}

impl Wanted {
    fn meets(&self, job: &wire::Job) -> bool {
        (self.state == wire::JobState::Unspecified || job.state() == self.state)
            && (self.kind == wire::JobKind::Unspecified || job.kind() == self.kind)
            && (self.head.is_empty() || job.head == self.head)
    }
}

fn list(learning: &Learning, request: &ListJobsRequest) -> Result<ListJobsResponse, RpcError> {
    const PAGE: usize = 200;
    // Reports on many classes are long.
    const MAXIMUM_PAGE_BYTES: usize = 4 << 20;
    let size = ranged("page_size", request.page_size, 1..=1000, 100)? as usize;
    let mut before = match request.page_token.as_str() {
        "" => None,
        token => Some(job_id("page_token", token)?),
    };
    let wanted = Wanted {
        state: known("state", request.state)?,
        kind: known("kind", request.kind)?,
        head: request.head.clone(),
    };
    let mut jobs = Vec::new();
    let mut bytes = 0;
    loop {
        let page = learning.jobs().list(before, PAGE)?;
        let last = page.len() < PAGE;
        for job in page {
            let id: JobId = job.record.id;
            let job = convert::job(job);
            if wanted.meets(&job) {
                bytes += job.encoded_len();
                jobs.push(job);
            }
            if jobs.len() == size || bytes > MAXIMUM_PAGE_BYTES {
                return Ok(ListJobsResponse { jobs, next_page_token: id.to_string() });
            }
            before = Some(id);
        }
        if last {
            return Ok(ListJobsResponse { jobs, next_page_token: String::new() });
        }
    }
}

/// Sends the job now and after every change, until it has ended, the caller hangs up or the daemon
/// stops.
async fn tell(
    mut news: watch::Receiver<Job>,
    mut draining: watch::Receiver<bool>,
    sender: mpsc::Sender<Result<WatchJobResponse, Status>>,
) {
    loop {
        let job = news.borrow_and_update().clone();
        let ended = job.record.state.is_final();
        let message = WatchJobResponse { job: Some(convert::job(job)) };
        if sender.send(Ok(message)).await.is_err() || ended {
            return;
        }
        tokio::select! {
            () = sender.closed() => return,
            changed = news.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = item_stream::begun(&mut draining) => {
                let _ = sender.send(Err(RpcError::from(EngineError::Draining).into())).await;
                return;
            }
        }
    }
}

#[tonic::async_trait]
impl TrainingService for Training {
    async fn start_training(
        &self,
        request: Request<StartTrainingRequest>,
    ) -> Result<Response<StartTrainingResponse>, Status> {
        let learning = self.shared.learning.clone();
        let asked = request.into_inner();
        let job = blocking(move || {
            let job = if asked.restart_job.is_empty() {
                learning.jobs().begin(&self::request(&learning, asked)?)?
            } else {
                learning.jobs().restart(restarted(&asked)?)?
            };
            Ok(convert::job(job))
        });
        Ok(Response::new(StartTrainingResponse { job: Some(job.await?) }))
    }

    async fn start_fine_tuning(
        &self,
        _: Request<StartFineTuningRequest>,
    ) -> Result<Response<StartFineTuningResponse>, Status> {
        Err(RpcError::NotYet("fine-tune backbones").into())
    }

    async fn get_job(
        &self,
        request: Request<GetJobRequest>,
    ) -> Result<Response<GetJobResponse>, Status> {
        let learning = self.shared.learning.clone();
        let id = job_id("id", &request.into_inner().id).map_err(RpcError::from)?;
        let job = blocking(move || Ok(convert::job(learning.jobs().get(id)?))).await?;
        Ok(Response::new(GetJobResponse { job: Some(job) }))
    }

    async fn list_jobs(
        &self,
        request: Request<ListJobsRequest>,
    ) -> Result<Response<ListJobsResponse>, Status> {
        let learning = self.shared.learning.clone();
        let request = request.into_inner();
        Ok(Response::new(blocking(move || list(&learning, &request)).await?))
    }

    async fn watch_job(
        &self,
        request: Request<WatchJobRequest>,
    ) -> Result<Response<BoxStream<WatchJobResponse>>, Status> {
        let id = job_id("id", &request.into_inner().id).map_err(RpcError::from)?;
        let (sender, messages) = mpsc::channel(1);
        if let Some(news) = self.shared.learning.jobs().watch(id) {
            tokio::spawn(tell(news, self.shared.draining.clone(), sender));
        } else {
            let learning = self.shared.learning.clone();
            let job = blocking(move || Ok(convert::job(learning.jobs().get(id)?))).await?;
            let _ = sender.send(Ok(WatchJobResponse { job: Some(job) })).await;
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn cancel_job(
        &self,
        request: Request<CancelJobRequest>,
    ) -> Result<Response<CancelJobResponse>, Status> {
        let learning = self.shared.learning.clone();
        let id = job_id("id", &request.into_inner().id).map_err(RpcError::from)?;
        let job = blocking(move || Ok(convert::job(learning.jobs().cancel(id)?))).await?;
        Ok(Response::new(CancelJobResponse { job: Some(job) }))
    }
}
