//! `inference.GRPCInferenceService`.

use std::time::Instant;

use tonic::{Request, Response, Status};

use super::tensors::{self, Input};
use super::{model, rows};
use crate::engine::Subject;
use crate::proto::inference::grpc_inference_service_server::GrpcInferenceService;
use crate::proto::inference::{
    ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
    ModelReadyRequest, ModelReadyResponse, ServerLiveRequest, ServerLiveResponse,
    ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
};
use crate::rpc::deadline;
use crate::rpc::error::RpcError;
use crate::rpc::services::Shared;

/// The service.
#[derive(Clone, Debug)]
pub struct OpenInference {
    shared: Shared,
}

impl OpenInference {
    /// Answers with what `shared` holds.
    pub fn new(shared: Shared) -> Self {
        Self { shared }
    }

    async fn infer(
        &self,
        mut request: ModelInferRequest,
        deadline: Option<Instant>,
    ) -> Result<ModelInferResponse, RpcError> {
        let snapshot = self.shared.engine.snapshot();
        let model = model::find(&snapshot, &request.model_name, &request.model_version).await?;
        let signature = model.signature(&snapshot);
        let raw = !request.raw_input_contents.is_empty();
        let wanted = tensors::wanted(&request.outputs, &signature)?;
        let input = tensors::input(&mut request, &signature)?;

        // By output, then by row.
        let mut outputs = vec![Vec::new(); signature.outputs.len()];
        for values in rows::run(&self.shared, &model, subjects(input), raw, deadline).await? {
            for (output, values) in outputs.iter_mut().zip(values) {
                output.push(values);
            }
        }
        let mut response = ModelInferResponse {
            model_name: request.model_name,
            model_version: model.version,
            id: request.id,
            ..ModelInferResponse::default()
        };
        for want in wanted {
            let name = &signature.outputs[want.output].name;
            let rows = &outputs[want.output];
            let labels = &signature.labels;
            tensors::push_output(&mut response, name, rows, want.classification, labels, raw);
        }
        Ok(response)
    }
}

fn subjects(input: Input) -> Vec<Subject> {
    match input {
        Input::Tensors(rows) => rows.into_iter().map(|row| Subject::Tensor(row.into())).collect(),
        Input::Images(images) => images.into_iter().map(Subject::Encoded).collect(),
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for OpenInference {
    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        let ready = !*self.shared.draining.borrow();
        Ok(Response::new(ServerReadyResponse { ready }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        let found = model::find(&self.shared.engine.snapshot(), &name, &version).await;
        let ready = found.is_ok() && !*self.shared.draining.borrow();
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: "graftd".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: vec!["classification".to_owned()],
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        let snapshot = self.shared.engine.snapshot();
        let model = model::find(&snapshot, &name, &version).await?;
        Ok(Response::new(model.signature(&snapshot).into()))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let deadline = deadline::of(request.metadata());
        let answer = self.infer(request.into_inner(), deadline).await;
        Ok(Response::new(answer.inspect_err(|_| self.shared.meter.failed())?))
    }
}
