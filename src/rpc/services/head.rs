//! `HeadService`: the trained classifiers on the device.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::Shared;
use super::blocking::blocking;
use super::upload::Upload;
use crate::base::cancel::Cancel;
use crate::engine::learning::{HeadImport, Learning};
use crate::engine::{EngineError, Target};
use crate::proto::graft as wire;
use crate::proto::graft::head_service_server::HeadService;
use crate::proto::graft::import_head_version_request::Part;
use crate::proto::graft::{
    ActivateHeadVersionRequest, ActivateHeadVersionResponse, DeleteHeadVersionRequest,
    DeleteHeadVersionResponse, EvaluateHeadVersionRequest, EvaluateHeadVersionResponse,
    ExportHeadVersionRequest, ExportHeadVersionResponse, GetHeadRequest, GetHeadResponse,
    ImportHeadVersionRequest, ImportHeadVersionResponse, ListHeadsRequest, ListHeadsResponse,
    RollbackHeadRequest, RollbackHeadResponse,
};
use crate::rpc::convert::field::{FieldError, Required, Within, known};
use crate::rpc::convert::job::{evaluation, optional_name};
use crate::rpc::convert::sample::{filter, name};
use crate::rpc::convert::{head, head_version};
use crate::rpc::error::RpcError;
use crate::store::Split;

/// Bytes a piece of an export.
const CHUNK: usize = 256 << 10;
/// Largest file that an import may be, in bytes.
const MAXIMUM_IMPORT: usize = 256 << 20;
/// Imports at a time. Each takes the memory of its file.
const IMPORTS: usize = 2;

/// The service.
#[derive(Clone, Debug)]
pub struct Heads {
    shared: Shared,
    imports: Arc<Semaphore>,
}

impl Heads {
    /// Manages what `shared` holds.
    pub fn new(shared: Shared) -> Self {
        Self { shared, imports: Arc::new(Semaphore::new(IMPORTS)) }
    }

    /// Puts an import together from its pieces. Its place is taken until the permit is dropped.
    async fn receive(
        &self,
        pieces: Streaming<ImportHeadVersionRequest>,
    ) -> Result<(HeadImport, OwnedSemaphorePermit), Status> {
        let refuse = |problem: &str| Status::from(RpcError::from(FieldError::new("part", problem)));
        let mut pieces = Upload::new(pieces, &self.shared);
        let first = pieces.next().await?.and_then(|piece| piece.part);
        let Some(Part::Head(what)) = first else {
            return Err(refuse("must be `head` in the first message"));
        };
        let name = optional_name("head.name", &what.name).map_err(RpcError::from)?;
        let backbone = optional_name("head.backbone", &what.backbone).map_err(RpcError::from)?;
        let place = Arc::clone(&self.imports).try_acquire_owned();
        let place = place.map_err(|_| RpcError::TooManyUploads("heads", IMPORTS))?;
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.next().await? {
            let Some(Part::Chunk(chunk)) = piece.part else {
                return Err(refuse("must be `chunk` after the first message"));
            };
            if bytes.len() + chunk.len() > MAXIMUM_IMPORT {
                return Err(refuse("is more than a head can be: 256 MiB"));
            }
            pieces.came(chunk.len());
            bytes.extend_from_slice(&chunk);
        }
        Ok((HeadImport { name, backbone, activate: what.activate, bytes }, place))
    }
}

fn described(
    learning: &Learning,
    head: &crate::store::Head,
    reports: bool,
) -> Result<wire::Head, RpcError> {
    let versions = learning.store().head_versions(&head.name)?;
    let mut described = head_version::head(head, versions, reports);
    described.followed_dataset = learning.followed_by(head)?.map(String::from).unwrap_or_default();
    Ok(described)
}

#[tonic::async_trait]
impl HeadService for Heads {
    async fn list_heads(
        &self,
        request: Request<ListHeadsRequest>,
    ) -> Result<Response<ListHeadsResponse>, Status> {
        let learning = self.shared.learning.clone();
        let backbone = request.into_inner().backbone;
        let heads = blocking(move || {
            let all = learning.store().heads()?;
            let described = all.iter().map(|head| described(&learning, head, false));
            let mut heads = described.collect::<Result<Vec<_>, _>>()?;
            heads.retain(|head| backbone.is_empty() || head.backbone == backbone);
            Ok(heads)
        });
        Ok(Response::new(ListHeadsResponse { heads: heads.await? }))
    }

    async fn get_head(
        &self,
        request: Request<GetHeadRequest>,
    ) -> Result<Response<GetHeadResponse>, Status> {
        let learning = self.shared.learning.clone();
        let asked = request.into_inner().head;
        let head = blocking(move || {
            let head = learning.store().head(&name("head", &asked)?)?;
            described(&learning, &head, true)
        });
        Ok(Response::new(GetHeadResponse { head: Some(head.await?) }))
    }

    async fn activate_head_version(
        &self,
        request: Request<ActivateHeadVersionRequest>,
    ) -> Result<Response<ActivateHeadVersionResponse>, Status> {
        let learning = self.shared.learning.clone();
        let asked = request.into_inner().head;
        let head = blocking(move || {
            let (name, version) = head_version::reference("head", &asked)?;
            let version = version.ok_or_else(|| {
                FieldError::new("head", "must name a version, for example trash@3")
            })?;
            described(&learning, &learning.activate(&name, version)?, true)
        });
        Ok(Response::new(ActivateHeadVersionResponse { head: Some(head.await?) }))
    }

    async fn rollback_head(
        &self,
        request: Request<RollbackHeadRequest>,
    ) -> Result<Response<RollbackHeadResponse>, Status> {
        let learning = self.shared.learning.clone();
        let asked = request.into_inner().head;
        let head = blocking(move || {
            described(&learning, &learning.roll_back(&name("head", &asked)?)?, true)
        });
        Ok(Response::new(RollbackHeadResponse { head: Some(head.await?) }))
    }

    async fn delete_head_version(
        &self,
        request: Request<DeleteHeadVersionRequest>,
    ) -> Result<Response<DeleteHeadVersionResponse>, Status> {
        let learning = self.shared.learning.clone();
        let asked = request.into_inner().head;
        blocking(move || {
            let (name, version) = head_version::reference("head", &asked)?;
            Ok(learning.delete(&name, version)?)
        })
        .await?;
        Ok(Response::new(DeleteHeadVersionResponse {}))
    }

    async fn evaluate_head_version(
        &self,
        request: Request<EvaluateHeadVersionRequest>,
    ) -> Result<Response<EvaluateHeadVersionResponse>, Status> {
        let learning = self.shared.learning.clone();
        let request = request.into_inner();
        // Dropping this call raises the flag, and the work stops.
        let cancel = Cancel::default();
        let _stop = cancel.on_drop();
        let judged = blocking(move || {
            let (name, version) = head_version::reference("head", &request.head)?;
            let asked = request.filter.required("filter")?;
            let (dataset, mut conditions) = filter(asked).within("filter")?;
            conditions.split = conditions.split.or(Some(Split::HeldOut));
            let target = Target::Head { name: name.to_string(), version };
            Ok(learning.evaluate(&target, &dataset, &conditions, &cancel)?)
        });
        let judged = judged.await?;
        Ok(Response::new(EvaluateHeadVersionResponse {
            head: Some(head::answering(&judged.head)),
            evaluation: Some(evaluation(&judged.report)),
        }))
    }

    async fn export_head_version(
        &self,
        request: Request<ExportHeadVersionRequest>,
    ) -> Result<Response<BoxStream<ExportHeadVersionResponse>>, Status> {
        let learning = self.shared.learning.clone();
        let request = request.into_inner();
        let file = blocking(move || {
            let (name, version) = head_version::reference("head", &request.head)?;
            let format: wire::HeadFormat = known("format", request.format)?;
            if format == wire::HeadFormat::Onnx {
                return Ok(bytes::Bytes::from(learning.export_onnx(&name, version)?));
            }
            let no_live_version = || EngineError::NoLiveVersion { head: name.to_string() };
            let live = learning.store().head(&name)?.active;
            let version = version.or(live).ok_or_else(no_live_version)?;
            Ok(bytes::Bytes::from(learning.store().head_version(&name, version)?.1))
        });
        let file = file.await?;
        let (sender, messages) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut size_bytes = file.len() as u64;
            for start in (0..file.len()).step_by(CHUNK) {
                let chunk = file.slice(start..file.len().min(start + CHUNK));
                let message = ExportHeadVersionResponse { chunk, size_bytes };
                size_bytes = 0;
                if sender.send(Ok(message)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn import_head_version(
        &self,
        request: Request<Streaming<ImportHeadVersionRequest>>,
    ) -> Result<Response<ImportHeadVersionResponse>, Status> {
        let learning = self.shared.learning.clone();
        let (import, place) = self.receive(request.into_inner()).await?;
        let imported = blocking(move || {
            let _place = place;
            let (name, version) = learning.import(import)?;
            let head = learning.store().head(&name)?;
            let head = Some(described(&learning, &head, true)?);
            Ok(ImportHeadVersionResponse { head, version })
        });
        Ok(Response::new(imported.await?))
    }
}
