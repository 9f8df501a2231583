//! `BackboneService`: the pretrained networks on the device.

use tonic::{Request, Response, Status};

use super::Shared;
use crate::engine::Target;
use crate::proto::graft::backbone_service_server::BackboneService;
use crate::proto::graft::{
    GetBackboneRequest, GetBackboneResponse, ListBackbonesRequest, ListBackbonesResponse,
};
use crate::rpc::convert::backbone;
use crate::rpc::status::RpcError;

/// The service.
#[derive(Clone, Debug)]
pub struct Backbones {
    shared: Shared,
}

impl Backbones {
    /// Manages what `shared` holds.
    pub fn new(shared: Shared) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl BackboneService for Backbones {
    async fn list_backbones(
        &self,
        _: Request<ListBackbonesRequest>,
    ) -> Result<Response<ListBackbonesResponse>, Status> {
        let snapshot = self.shared.engine.snapshot();
        let default = snapshot.resolve(&Target::Default).ok();
        let backbones = snapshot.backbones.values();
        let backbones = backbones.map(|live| backbone::loaded(live, default.as_ref())).collect();
        Ok(Response::new(ListBackbonesResponse { backbones }))
    }

    async fn get_backbone(
        &self,
        request: Request<GetBackboneRequest>,
    ) -> Result<Response<GetBackboneResponse>, Status> {
        let name = request.into_inner().backbone;
        let target = if name.is_empty() { Target::Default } else { Target::Backbone(name) };
        let snapshot = self.shared.engine.snapshot();
        let found = snapshot.resolve(&target).map_err(RpcError::from)?;
        let default = snapshot.resolve(&Target::Default).ok();
        Ok(Response::new(backbone::in_full(&found.backbone, default.as_ref())))
    }
}
