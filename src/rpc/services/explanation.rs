//! `ExplanationService`: where the network looked.

use std::time::Instant;

use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::Shared;
use super::audit::Audit;
use crate::base::cancel::Cancel;
use crate::engine::{Beside, ExplainOptions};
use crate::proto::graft::explain_stream_response::Result as Outcome;
use crate::proto::graft::explanation_service_server::ExplanationService;
use crate::proto::graft::{
    AuditDatasetRequest, AuditDatasetResponse, ExplainRequest, ExplainResponse,
    ExplainStreamRequest, ExplainStreamResponse,
};
use crate::rpc::answer_size;
use crate::rpc::convert::explanation::explain_response;
use crate::rpc::convert::field::{Required, Within, check_length};
use crate::rpc::convert::{image, request, target};
use crate::rpc::deadline;
use crate::rpc::error::RpcError;
use crate::rpc::item_stream::{self, Limits, Policy};
use crate::rpc::resolve::resolve;

/// Bytes of a correlation id.
const MAXIMUM_CORRELATION_ID: usize = 200;

/// The service.
#[derive(Clone, Debug)]
pub struct Explanations {
    shared: Shared,
}

impl Explanations {
    /// Answers with what `shared` holds.
    pub fn new(shared: Shared) -> Self {
        Self { shared }
    }

    async fn answer(
        &self,
        request: ExplainRequest,
        deadline: Option<Instant>,
    ) -> Result<ExplainResponse, RpcError> {
        let arrived = Instant::now();
        let target = target::target(&request.head, &request.backbone)?;
        let top_k = request::top_k(request.top_k)?;
        let wanted: ExplainOptions =
            request.options.unwrap_or_default().try_into().within("options")?;
        let subject = image::subject(request.image)?;
        let cancel = Cancel::with_deadline(deadline);
        let engine = &self.shared.engine;
        let options = wanted.clone();
        let by = resolve(engine.snapshot(), &target).await?;
        let ticket = engine.explain_by(Beside::Predictions, by, subject, options, cancel)?;
        let explained = ticket.await??;
        let answer = &explained.answer;
        self.shared.meter.answered(&answer.by.backbone.name, answer.timings.inference);
        Ok(explain_response(&explained, &wanted, top_k, arrived))
    }

    /// Answers one item of a stream; whatever goes wrong is that item's own failure.
    async fn answer_item(
        self,
        item: ExplainStreamRequest,
        deadline: Option<Instant>,
    ) -> ExplainStreamResponse {
        let ExplainStreamRequest { correlation_id, request } = item;
        let answer = async {
            check_length("correlation_id", &correlation_id, MAXIMUM_CORRELATION_ID)?;
            let request = request.required("request")?;
            self.answer(request, deadline).await.map_err(|error| error.within("request"))
        };
        let result = match answer.await {
            Ok(response) => Outcome::Response(response),
            Err(error) => {
                self.shared.meter.failed();
                Outcome::Failure(error.into())
            }
        };
        let result = Some(result);
        let mut item = ExplainStreamResponse { correlation_id, result };
        if let Err(error) = answer_size::check(&item, self.shared.maximum_message_bytes) {
            self.shared.meter.failed();
            item.result = Some(Outcome::Failure(error.into()));
        }
        item
    }
}

#[tonic::async_trait]
impl ExplanationService for Explanations {
    async fn explain(
        &self,
        request: Request<ExplainRequest>,
    ) -> Result<Response<ExplainResponse>, Status> {
        let deadline = deadline::of(request.metadata());
        let answer = async {
            let answer = self.answer(request.into_inner(), deadline).await?;
            answer_size::check(&answer, self.shared.maximum_message_bytes).map(|()| answer)
        };
        Ok(Response::new(answer.await.inspect_err(|_| self.shared.meter.failed())?))
    }

    async fn audit_dataset(
        &self,
        request: Request<AuditDatasetRequest>,
    ) -> Result<Response<BoxStream<AuditDatasetResponse>>, Status> {
        let deadline = deadline::of(request.metadata());
        let audit = Audit::new(self.shared.clone(), request.into_inner(), deadline);
        let answers = audit.map_err(RpcError::from)?.run();
        Ok(Response::new(Box::pin(answers)))
    }

    async fn explain_stream(
        &self,
        request: Request<Streaming<ExplainStreamRequest>>,
    ) -> Result<Response<BoxStream<ExplainStreamResponse>>, Status> {
        let limits = Limits {
            deadline: deadline::of(request.metadata()),
            draining: self.shared.draining.clone(),
            maximum_message_bytes: self.shared.maximum_message_bytes,
            room: self.shared.room.clone(),
        };
        let in_flight = self.shared.engine.statistics().workers + 1;
        let policy = move |_: &ExplainStreamRequest| Policy::AnswerAll { in_flight };
        let (service, deadline) = (self.clone(), limits.deadline);
        let answer = move |item, _| service.clone().answer_item(item, deadline);
        let answers = item_stream::serve(request.into_inner(), limits, policy, answer);
        Ok(Response::new(Box::pin(answers)))
    }
}
