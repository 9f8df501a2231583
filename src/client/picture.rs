//! Pictures on their way to a device.

use std::path::Path;

use bytes::Bytes;

use super::error::{ClientError, ErrorKind};
use crate::proto::graft::{EmbedRequest, ExplainRequest, Image, PredictRequest, image};

/// A picture file's bytes, ready to be sent. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Picture(Bytes);

impl Picture {
    /// Takes the bytes of a whole JPEG, PNG, WebP, BMP or GIF file.
    pub fn from_bytes(encoded: impl Into<Bytes>) -> Self {
        Self(encoded.into())
    }

    /// Reads a picture file.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub async fn from_file(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        let path = path.as_ref();
        let bytes = tokio::fs::read(path).await.map_err(|error| {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            let kind = if missing { ErrorKind::NotFound } else { ErrorKind::InvalidArgument };
            ClientError::local(kind, format!("cannot read {}: {error}", path.display()))
        })?;
        Ok(Self(bytes.into()))
    }
}

impl From<Picture> for Image {
    fn from(picture: Picture) -> Self {
        Self { source: Some(image::Source::Encoded(picture.0)) }
    }
}

impl From<Picture> for PredictRequest {
    fn from(picture: Picture) -> Self {
        Self { image: Some(picture.into()), ..Self::default() }
    }
}

impl From<Picture> for EmbedRequest {
    fn from(picture: Picture) -> Self {
        Self { image: Some(picture.into()), ..Self::default() }
    }
}

impl From<Picture> for ExplainRequest {
    fn from(picture: Picture) -> Self {
        Self { image: Some(picture.into()), ..Self::default() }
    }
}
