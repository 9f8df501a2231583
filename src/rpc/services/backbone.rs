//! `BackboneService`: the pretrained networks on the device.

use std::sync::Arc;

use tokio::sync::{Mutex, Semaphore};
use tonic::{Request, Response, Status, Streaming};

use super::Shared;
use super::blocking::blocking;
use super::upload::Upload;
use crate::backbones::NewBackbone;
use crate::base::name::Name;
use crate::engine::{BackboneKeeper, EngineError, KeeperError, KeptBackbone, Target};
use crate::proto::graft::backbone_service_server::BackboneService;
use crate::proto::graft::upload_backbone_request::Part;
use crate::proto::graft::{
    Backbone, DeleteBackboneRequest, DeleteBackboneResponse, GetBackboneRequest,
    GetBackboneResponse, ListBackbonesRequest, ListBackbonesResponse, LoadBackboneRequest,
    LoadBackboneResponse, UnloadBackboneRequest, UnloadBackboneResponse, UploadBackboneRequest,
    UploadBackboneResponse,
};
use crate::rpc::convert::backbone;
use crate::rpc::convert::field::{FieldError, Within};
use crate::rpc::convert::manifest::name;
use crate::rpc::error::RpcError;

/// The largest model taken, in bytes. VGG-19, the largest of the catalogue, has 575 MB.
const MAXIMUM_MODEL_BYTES: u64 = 1 << 30;

/// Uploads at a time. Each takes room on the disk, and its trial the memory of a network.
const UPLOADS: usize = 2;

/// The service.
#[derive(Clone, Debug)]
pub struct BackboneManager {
    shared: Shared,
    uploads: Arc<Semaphore>,
    /// Held by who changes which backbones there are.
    turn: Arc<Mutex<()>>,
}

impl BackboneManager {
    /// Manages what `shared` keeps.
    pub fn new(shared: Shared) -> Self {
        let uploads = Arc::new(Semaphore::new(UPLOADS));
        Self { shared, uploads, turn: Arc::default() }
    }

    /// The id of the backbone that answers a request that names nothing.
    fn default_id(&self) -> Result<Name, EngineError> {
        let found = self.shared.engine.snapshot().resolve(&Target::Default)?;
        Ok(found.backbone.name.clone())
    }

    fn described(&self, kept: &KeptBackbone) -> Backbone {
        backbone::described(kept, self.default_id().ok().as_ref().map(AsRef::as_ref))
    }

    /// Does on the keeper what takes its time.
    async fn keep<T: Send + 'static>(
        &self,
        work: impl FnOnce(&BackboneKeeper) -> Result<T, RpcError> + Send + 'static,
    ) -> Result<T, RpcError> {
        let keeper = Arc::clone(&self.shared.keeper);
        blocking(move || work(&keeper)).await
    }

    /// Changes something on the keeper, one caller after the other. Who waits for its turn holds no
    /// thread, and who hangs up or whose deadline passes before that changes nothing.
    async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&BackboneKeeper) -> Result<T, RpcError> + Send + 'static,
    ) -> Result<T, RpcError> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        self.keep(move |keeper| {
            // Until the work has ended, even if the caller does not wait for that.
            let _turn = turn;
            work(keeper)
        })
        .await
    }

    /// Stores the pieces of an upload as they come, then has it installed. No thread waits for a
    /// piece.
    async fn upload(
        &self,
        parts: Streaming<UploadBackboneRequest>,
    ) -> Result<KeptBackbone, Status> {
        let mut parts = Upload::new(parts, &self.shared);
        let first = next_part(&mut parts).await?;
        let Some(Part::Manifest(manifest)) = first else {
            let error = FieldError::new("manifest", "must be the first message of an upload");
            return Err(RpcError::from(error).into());
        };
        if manifest.size_bytes > MAXIMUM_MODEL_BYTES {
            let problem = format!("is over the limit of {MAXIMUM_MODEL_BYTES} bytes for a model");
            return Err(RpcError::from(FieldError::new("manifest.size_bytes", problem)).into());
        }
        let new = NewBackbone::try_from(manifest).within("manifest").map_err(RpcError::from)?;
        let place = Arc::clone(&self.uploads).try_acquire_owned();
        let place = place.map_err(|_| RpcError::TooManyUploads("backbones", UPLOADS))?;
        let mut received: u64 = 0;
        let begin = {
            let new = new.clone();
            move |keeper: &BackboneKeeper| {
                keeper.check_new(&new)?;
                Ok(keeper.receive(MAXIMUM_MODEL_BYTES)?)
            }
        };
        let mut incoming = self.keep(begin).await?;
        while let Some(part) = next_part(&mut parts).await? {
            let Part::Chunk(chunk) = part else {
                let error = FieldError::new("manifest", "must come once, first");
                return Err(RpcError::from(error).into());
            };
            parts.came(chunk.len());
            received += chunk.len() as u64;
            if new.size_bytes.is_some_and(|announced| received > announced) {
                let error = FieldError::new("manifest.size_bytes", "is less than what comes");
                return Err(RpcError::from(error).into());
            }
            let store = move || {
                incoming.push(&chunk).map_err(KeeperError::from)?;
                Ok(incoming)
            };
            incoming = blocking(store).await?;
        }
        let prepare = move |keeper: &BackboneKeeper| {
            let prepared = keeper.prepare(incoming, &new)?;
            // The place is taken until the trial has ended, even if the caller hangs up.
            Ok((prepared, new, place))
        };
        let (prepared, new, _place) = self.keep(prepare).await?;
        Ok(self.change(move |keeper| Ok(keeper.install(prepared, &new)?)).await?)
    }
}

async fn next_part(parts: &mut Upload<UploadBackboneRequest>) -> Result<Option<Part>, Status> {
    let Some(message) = parts.next().await? else { return Ok(None) };
    let empty = || FieldError::new("part", "must hold the manifest or a chunk");
    Ok(Some(message.part.ok_or_else(empty).map_err(RpcError::from)?))
}

#[tonic::async_trait]
impl BackboneService for BackboneManager {
    async fn list_backbones(
        &self,
        _: Request<ListBackbonesRequest>,
    ) -> Result<Response<ListBackbonesResponse>, Status> {
        let kept = self.keep(|keeper| Ok(keeper.list()?)).await?;
        let backbones = kept.iter().map(|kept| self.described(kept)).collect();
        Ok(Response::new(ListBackbonesResponse { backbones }))
    }

    async fn get_backbone(
        &self,
        request: Request<GetBackboneRequest>,
    ) -> Result<Response<GetBackboneResponse>, Status> {
        let asked = request.into_inner().backbone;
        let default = self.default_id();
        let (id, default) = match (asked.as_str(), default) {
            ("", Ok(default)) => (default.clone(), Some(default)),
            ("", Err(error)) => return Err(RpcError::from(error).into()),
            (asked, default) => (name("backbone", asked).map_err(RpcError::from)?, default.ok()),
        };
        let response = self.keep(move |keeper| {
            let kept = keeper.get(&id)?;
            let abilities = match &kept.live {
                Some(live) => live.abilities().map_err(KeeperError::from)?,
                None => Arc::default(),
            };
            Ok(backbone::in_full(&kept, default.as_ref().map(AsRef::as_ref), &abilities))
        });
        Ok(Response::new(response.await?))
    }

    async fn upload_backbone(
        &self,
        request: Request<Streaming<UploadBackboneRequest>>,
    ) -> Result<Response<UploadBackboneResponse>, Status> {
        let kept = self.upload(request.into_inner()).await?;
        Ok(Response::new(UploadBackboneResponse { backbone: Some(self.described(&kept)) }))
    }

    async fn load_backbone(
        &self,
        request: Request<LoadBackboneRequest>,
    ) -> Result<Response<LoadBackboneResponse>, Status> {
        let id = name("backbone", &request.into_inner().backbone).map_err(RpcError::from)?;
        let kept = self.change(move |keeper| Ok(keeper.load(&id)?)).await?;
        Ok(Response::new(LoadBackboneResponse { backbone: Some(self.described(&kept)) }))
    }

    async fn unload_backbone(
        &self,
        request: Request<UnloadBackboneRequest>,
    ) -> Result<Response<UnloadBackboneResponse>, Status> {
        let id = name("backbone", &request.into_inner().backbone).map_err(RpcError::from)?;
        let kept = self.change(move |keeper| Ok(keeper.unload(&id)?)).await?;
        Ok(Response::new(UnloadBackboneResponse { backbone: Some(self.described(&kept)) }))
    }

    async fn delete_backbone(
        &self,
        request: Request<DeleteBackboneRequest>,
    ) -> Result<Response<DeleteBackboneResponse>, Status> {
        let DeleteBackboneRequest { backbone, delete_embeddings } = request.into_inner();
        let id = name("backbone", &backbone).map_err(RpcError::from)?;
        let shared = self.shared.clone();
        self.change(move |keeper| {
            if delete_embeddings {
                // Of one that is not loaded nobody knows which they are.
                shared.engine.snapshot().resolve(&Target::Backbone(backbone))?;
            }
            let orphaned = keeper.delete(&id)?;
            if let Some(key) = orphaned.filter(|_| delete_embeddings) {
                shared.learning.store().delete_embeddings(key)?;
            }
            Ok(())
        })
        .await?;
        Ok(Response::new(DeleteBackboneResponse {}))
    }
}
