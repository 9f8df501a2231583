//! Predictions, embeddings, explanations.

use tokio_stream::{Stream, StreamExt};
use tonic::Streaming;

use super::connection::Client;
use super::error::ClientError;
use crate::proto::graft::{
    AuditDatasetRequest, AuditDatasetResponse, EmbedRequest, EmbedResponse, ExplainRequest,
    ExplainResponse, PredictRequest, PredictResponse, PredictStreamRequest, PredictStreamResponse,
    audit_dataset_response, predict_stream_response,
};

impl Client {
    /// Says what a picture shows.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn predict(&self, request: PredictRequest) -> Result<PredictResponse, ClientError> {
        Ok(self.inference().predict(self.request(request)).await?.into_inner())
    }

    /// Says what pictures show as they come. Answers arrive as they finish; the correlation id tells
    /// which request each belongs to. Dropping the stream gives up what is unanswered.
    ///
    /// # Errors
    /// Where the stream cannot be opened.
    pub async fn predict_stream<S>(&self, requests: S) -> Result<AnswerStream, ClientError>
    where
        S: Stream<Item = PredictStreamRequest> + Send + 'static,
    {
        Ok(AnswerStream(self.inference().predict_stream(requests).await?.into_inner()))
    }

    /// Gives the vector that enters the classifier.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn embed(&self, request: EmbedRequest) -> Result<EmbedResponse, ClientError> {
        Ok(self.inference().embed(self.request(request)).await?.into_inner())
    }

    /// Says where the network looked.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn explain(&self, request: ExplainRequest) -> Result<ExplainResponse, ClientError> {
        Ok(self.explanation().explain(self.request(request)).await?.into_inner())
    }

    /// Explains a dataset class by class. Dropping the stream ends the audit.
    ///
    /// # Errors
    /// Where the request is not well formed; what the dataset lacks comes with the stream.
    pub async fn audit_dataset(
        &self,
        request: AuditDatasetRequest,
    ) -> Result<AuditStream, ClientError> {
        Ok(AuditStream(self.explanation().audit_dataset(request).await?.into_inner()))
    }
}

/// The pieces of a [`Client::audit_dataset`]: progress, then one class after the other.
#[derive(Debug)]
pub struct AuditStream(Streaming<AuditDatasetResponse>);

impl AuditStream {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// What ended the audit.
    pub async fn next(&mut self) -> Result<Option<audit_dataset_response::Part>, ClientError> {
        while let Some(message) = self.0.next().await.transpose()? {
            if message.part.is_some() {
                return Ok(message.part);
            }
        }
        Ok(None)
    }
}

/// The answers to a [`Client::predict_stream`].
#[derive(Debug)]
pub struct AnswerStream(Streaming<PredictStreamResponse>);

/// One answer of a stream.
#[derive(Clone, Debug)]
pub struct StreamAnswer {
    /// The request's correlation id.
    pub correlation_id: String,
    /// Items dropped since the previous answer under the latest-only policy.
    pub skipped: u64,
    /// The item's own result; an error here does not end the stream.
    pub result: Result<PredictResponse, ClientError>,
}

impl AnswerStream {
    /// The next answer; `None` once all are given.
    ///
    /// # Errors
    /// Where the stream itself breaks off.
    pub async fn next(&mut self) -> Result<Option<StreamAnswer>, ClientError> {
        let Some(message) = self.0.next().await.transpose()? else { return Ok(None) };
        let result = match message.result {
            Some(predict_stream_response::Result::Response(response)) => Ok(response),
            Some(predict_stream_response::Result::Failure(failure)) => Err(failure.into()),
            None => Err(ClientError::local(
                super::ErrorKind::Internal,
                "the device sent an answer without a result; is it newer than this client?",
            )),
        };
        let (correlation_id, skipped) = (message.correlation_id, message.skipped);
        Ok(Some(StreamAnswer { correlation_id, skipped, result }))
    }
}
