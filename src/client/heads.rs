//! Trained classifiers on a device. A version is named as `trash@3`.

use bytes::Bytes;
use tokio_stream::StreamExt;

use super::connection::Client;
use super::error::ClientError;
use crate::proto::graft::import_head_version_request::Part;
use crate::proto::graft::{
    ActivateHeadVersionRequest, DeleteHeadVersionRequest, EvaluateHeadVersionRequest,
    EvaluateHeadVersionResponse, ExportHeadVersionRequest, GetHeadRequest, Head, HeadFormat,
    ImportHeadVersionRequest, ImportHeadVersionResponse, ImportedHead, ListHeadsRequest,
    RollbackHeadRequest,
};

/// Bytes a message of an import.
const CHUNK_BYTES: usize = 256 << 10;

impl Client {
    /// The heads on the device by name; an empty `backbone` means on any.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn list_heads(&self, backbone: &str) -> Result<Vec<Head>, ClientError> {
        let request = self.request(ListHeadsRequest { backbone: backbone.to_owned() });
        Ok(self.heads().list_heads(request).await?.into_inner().heads)
    }

    /// One head with its versions and their reports.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn get_head(&self, head: &str) -> Result<Option<Head>, ClientError> {
        let request = self.request(GetHeadRequest { head: head.to_owned() });
        Ok(self.heads().get_head(request).await?.into_inner().head)
    }

    /// Makes a version live.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn activate_head_version(&self, head: &str) -> Result<Option<Head>, ClientError> {
        let request = self.request(ActivateHeadVersionRequest { head: head.to_owned() });
        Ok(self.heads().activate_head_version(request).await?.into_inner().head)
    }

    /// Makes the version live that was so before the present one.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn rollback_head(&self, head: &str) -> Result<Option<Head>, ClientError> {
        let request = self.request(RollbackHeadRequest { head: head.to_owned() });
        Ok(self.heads().rollback_head(request).await?.into_inner().head)
    }

    /// Deletes a version that is not live; a name without a version deletes the whole head.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn delete_head_version(&self, head: &str) -> Result<(), ClientError> {
        let request = self.request(DeleteHeadVersionRequest { head: head.to_owned() });
        self.heads().delete_head_version(request).await?;
        Ok(())
    }

    /// Judges a version on labelled samples.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn evaluate_head_version(
        &self,
        request: EvaluateHeadVersionRequest,
    ) -> Result<EvaluateHeadVersionResponse, ClientError> {
        Ok(self.heads().evaluate_head_version(self.request(request)).await?.into_inner())
    }

    /// A version as a whole file.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn export_head_version(
        &self,
        head: &str,
        format: HeadFormat,
    ) -> Result<Vec<u8>, ClientError> {
        let request = ExportHeadVersionRequest { head: head.to_owned(), format: format.into() };
        let mut chunks = self.heads().export_head_version(request).await?.into_inner();
        let mut file = Vec::new();
        while let Some(message) = chunks.next().await {
            file.extend_from_slice(&message?.chunk);
        }
        Ok(file)
    }

    /// Brings a version onto the device from a file that an export made.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn import_head_version(
        &self,
        head: ImportedHead,
        file: Vec<u8>,
    ) -> Result<ImportHeadVersionResponse, ClientError> {
        let file = Bytes::from(file);
        let chunks = (0..file.len())
            .step_by(CHUNK_BYTES)
            .map(move |start| Part::Chunk(file.slice(start..file.len().min(start + CHUNK_BYTES))));
        let parts = std::iter::once(Part::Head(head)).chain(chunks);
        let messages = parts.map(|part| ImportHeadVersionRequest { part: Some(part) });
        let request = tokio_stream::iter(messages);
        Ok(self.heads().import_head_version(request).await?.into_inner())
    }
}
