//! `InferenceService`: what is in a picture, and how sure.

use std::time::Instant;

use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::Shared;
use crate::base::cancel::Cancel;
use crate::engine::{Beside, ExplainOptions, Priority};
use crate::proto::graft::inference_service_server::InferenceService;
use crate::proto::graft::predict_stream_response::Result as Outcome;
use crate::proto::graft::{
    EmbedRequest, EmbedResponse, PredictRequest, PredictResponse, PredictStreamRequest,
    PredictStreamResponse, StreamPolicy,
};
use crate::rpc::answer_size;
use crate::rpc::convert::answer::{embed_response, predict_response};
use crate::rpc::convert::explanation;
use crate::rpc::convert::field::{Required, Within, check_length, known};
use crate::rpc::convert::request::{Embed, Predict};
use crate::rpc::deadline;
use crate::rpc::error::RpcError;
use crate::rpc::item_stream::{self, Limits, Policy};
use crate::rpc::resolve::resolve;

/// Bytes of a correlation id.
const MAXIMUM_CORRELATION_ID: usize = 200;

/// The service.
#[derive(Clone, Debug)]
pub struct Inference {
    shared: Shared,
}

impl Inference {
    /// Answers with what `shared` holds.
    pub fn new(shared: Shared) -> Self {
        Self { shared }
    }

    async fn answer(
        &self,
        request: PredictRequest,
        deadline: Option<Instant>,
    ) -> Result<PredictResponse, RpcError> {
        let arrived = Instant::now();
        if request.explain.is_some() {
            return self.answer_explained(request, deadline, arrived).await;
        }
        let Predict { subject, target, top_k } = request.try_into()?;
        let cancel = Cancel::with_deadline(deadline);
        let by = resolve(self.shared.engine.snapshot(), &target).await?;
        let ticket = self.shared.engine.predict_by(by, subject.clone(), cancel)?;
        let answer = ticket.await??;
        self.shared.meter.answered(&answer.by.backbone.name, answer.timings.inference);
        self.shared.learning.capture(&answer, &subject);
        Ok(predict_response(&answer, top_k, arrived))
    }

    /// Answers with a map, from the same forward run wherever that computes enough.
    async fn answer_explained(
        &self,
        mut request: PredictRequest,
        deadline: Option<Instant>,
        arrived: Instant,
    ) -> Result<PredictResponse, RpcError> {
        let wanted: ExplainOptions =
            request.explain.take().unwrap_or_default().try_into().within("explain")?;
        let Predict { subject, target, top_k } = request.try_into()?;
        let cancel = Cancel::with_deadline(deadline);
        let options = wanted.clone();
        let (engine, beside) = (&self.shared.engine, Beside::OwnPrediction);
        let by = resolve(engine.snapshot(), &target).await?;
        let explain =
            async { engine.explain_by(beside, by, subject.clone(), options, cancel)?.await? };
        let at_explain = |error| RpcError::from(error).with_options_at("explain");
        let explained = explain.await.map_err(at_explain)?;
        let answer = &explained.answer;
        self.shared.meter.answered(&answer.by.backbone.name, answer.timings.inference);
        self.shared.learning.capture(answer, &subject);
        let mut response = predict_response(answer, top_k, arrived);
        response.explanation = Some(explanation::explanation(&explained, &wanted));
        if let Some(timings) = &mut response.timings {
            timings.explain_ms = explained.elapsed.as_secs_f64() * 1e3;
        }
        Ok(response)
    }

    /// Answers one item of a stream; whatever goes wrong is that item's own failure.
    async fn answer_item(
        self,
        item: PredictStreamRequest,
        skipped: u64,
        deadline: Option<Instant>,
    ) -> PredictStreamResponse {
        let PredictStreamRequest { correlation_id, request, policy } = item;
        let answer = async {
            check_length("correlation_id", &correlation_id, MAXIMUM_CORRELATION_ID)?;
            // Which policy is the stream's was decided by its first item.
            known::<StreamPolicy>("policy", policy)?;
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
        let mut item = PredictStreamResponse { correlation_id, result, skipped };
        if let Err(error) = answer_size::check(&item, self.shared.maximum_message_bytes) {
            self.shared.meter.failed();
            item.result = Some(Outcome::Failure(error.into()));
        }
        item
    }
}

#[tonic::async_trait]
impl InferenceService for Inference {
    async fn predict(
        &self,
        request: Request<PredictRequest>,
    ) -> Result<Response<PredictResponse>, Status> {
        let deadline = deadline::of(request.metadata());
        let answer = async {
            let answer = self.answer(request.into_inner(), deadline).await?;
            answer_size::check(&answer, self.shared.maximum_message_bytes).map(|()| answer)
        };
        Ok(Response::new(answer.await.inspect_err(|_| self.shared.meter.failed())?))
    }

    async fn predict_stream(
        &self,
        request: Request<Streaming<PredictStreamRequest>>,
    ) -> Result<Response<BoxStream<PredictStreamResponse>>, Status> {
        let limits = Limits {
            deadline: deadline::of(request.metadata()),
            draining: self.shared.draining.clone(),
            maximum_message_bytes: self.shared.maximum_message_bytes,
            room: self.shared.room.clone(),
        };
        // One more than there are workers, so that none waits for the next item to be read.
        let in_flight = self.shared.engine.statistics().workers + 1;
        let policy = move |item: &PredictStreamRequest| match item.policy() {
            StreamPolicy::LatestOnly => Policy::LatestOnly,
            StreamPolicy::AnswerAll | StreamPolicy::Unspecified => Policy::AnswerAll { in_flight },
        };
        let (service, deadline) = (self.clone(), limits.deadline);
        let answer = move |item, skipped| service.clone().answer_item(item, skipped, deadline);
        let answers = item_stream::serve(request.into_inner(), limits, policy, answer);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn embed(
        &self,
        request: Request<EmbedRequest>,
    ) -> Result<Response<EmbedResponse>, Status> {
        let arrived = Instant::now();
        let cancel = Cancel::with_deadline(deadline::of(request.metadata()));
        let answer = async {
            let Embed { subject, target } = request.into_inner().try_into()?;
            let engine = &self.shared.engine;
            let by = resolve(engine.snapshot(), &target).await?;
            let embedded = engine.embed_by(Priority::Foreground, by, subject, cancel)?.await??;
            self.shared.meter.answered(&embedded.by.backbone.name, embedded.timings.inference);
            Ok::<_, RpcError>(embed_response(embedded, arrived))
        };
        let answer = answer.await.inspect_err(|_| self.shared.meter.failed())?;
        Ok(Response::new(answer))
    }
}
