//! Backbones on a device.

use std::path::Path;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::connection::Client;
use super::error::{ClientError, ErrorKind};
use crate::proto::graft::upload_backbone_request::Part;
use crate::proto::graft::{
    Backbone, BackboneManifest, DeleteBackboneRequest, GetBackboneRequest, GetBackboneResponse,
    ListBackbonesRequest, LoadBackboneRequest, UnloadBackboneRequest, UploadBackboneRequest,
};

/// Bytes a message of an upload.
const CHUNK_BYTES: usize = 256 << 10;

/// Told how many bytes of an upload have been sent so far.
pub type UploadProgress = Box<dyn FnMut(u64) + Send>;

impl Client {
    /// The backbones on the device, by id.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn list_backbones(&self) -> Result<Vec<Backbone>, ClientError> {
        let request = self.request(ListBackbonesRequest {});
        Ok(self.backbones().list_backbones(request).await?.into_inner().backbones)
    }

    /// One backbone with its layers; an empty `id` asks for the default one.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn get_backbone(&self, id: &str) -> Result<GetBackboneResponse, ClientError> {
        let request = self.request(GetBackboneRequest { backbone: id.to_owned() });
        Ok(self.backbones().get_backbone(request).await?.into_inner())
    }

    /// Sends an ONNX file to the device, which tries, keeps and loads it.
    ///
    /// # Errors
    /// Where the file cannot be read, or as the device answers.
    pub async fn upload_backbone(
        &self,
        manifest: BackboneManifest,
        onnx_file: &Path,
        mut progress: UploadProgress,
    ) -> Result<Option<Backbone>, ClientError> {
        let unreadable = |error: std::io::Error| {
            let message = format!("cannot read {}: {error}", onnx_file.display());
            ClientError::local(ErrorKind::InvalidArgument, message)
        };
        let mut file = tokio::fs::File::open(onnx_file).await.map_err(unreadable)?;
        let (sender, receiver) = mpsc::channel(4);
        let send = async move {
            let first = UploadBackboneRequest { part: Some(Part::Manifest(manifest)) };
            let mut sent = 0;
            let mut open = sender.send(first).await.is_ok();
            while open {
                let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
                if file.read_buf(&mut chunk).await? == 0 {
                    break;
                }
                sent += chunk.len() as u64;
                let part = Some(Part::Chunk(chunk.freeze()));
                // Closed where the device has answered already; its answer tells why.
                open = sender.send(UploadBackboneRequest { part }).await.is_ok();
                progress(sent);
            }
            Ok::<(), std::io::Error>(())
        };
        let mut service = self.backbones();
        let answer = service.upload_backbone(ReceiverStream::new(receiver));
        let (sent, answer) = tokio::join!(send, answer);
        sent.map_err(unreadable)?;
        Ok(answer?.into_inner().backbone)
    }

    /// Loads a backbone, so that it answers.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn load_backbone(&self, id: &str) -> Result<Option<Backbone>, ClientError> {
        let request = self.request(LoadBackboneRequest { backbone: id.to_owned() });
        Ok(self.backbones().load_backbone(request).await?.into_inner().backbone)
    }

    /// Takes a backbone out of the device's memory.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn unload_backbone(&self, id: &str) -> Result<Option<Backbone>, ClientError> {
        let request = self.request(UnloadBackboneRequest { backbone: id.to_owned() });
        Ok(self.backbones().unload_backbone(request).await?.into_inner().backbone)
    }

    /// Deletes a backbone from the device.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn delete_backbone(&self, id: &str) -> Result<(), ClientError> {
        self.delete_backbone_and(id, false).await
    }

    /// As [`Client::delete_backbone`], with the embeddings that it made of stored samples.
    ///
    /// # Errors
    /// As [`Client::delete_backbone`]; a backbone that is not loaded.
    pub async fn delete_backbone_with_embeddings(&self, id: &str) -> Result<(), ClientError> {
        self.delete_backbone_and(id, true).await
    }

    async fn delete_backbone_and(
        &self,
        id: &str,
        delete_embeddings: bool,
    ) -> Result<(), ClientError> {
        let request = DeleteBackboneRequest { backbone: id.to_owned(), delete_embeddings };
        self.backbones().delete_backbone(self.request(request)).await?;
        Ok(())
    }
}
