//! Labelled samples and datasets on a device.

use tokio_stream::{Stream, StreamExt};
use tonic::Streaming;

use super::connection::Client;
use super::error::{ClientError, ErrorKind};
use crate::proto::graft::stream_samples_response::Result as Outcome;
use crate::proto::graft::{
    AddSampleRequest, AddSampleResponse, ConfigureDatasetRequest, Dataset, DatasetSettings,
    DeleteSamplesRequest, DeleteSamplesResponse, GetDatasetReportRequest, GetDatasetReportResponse,
    GetSampleRequest, GetSampleResponse, ListDatasetsRequest, ListSamplesRequest,
    ListSamplesResponse, NewSample, Sample, SampleAcknowledgement, StreamSamplesRequest,
    StreamSamplesResponse, UpdateSampleRequest,
};

impl Client {
    /// Stores one sample; once this returns, the sample is durable.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn add_sample(&self, sample: NewSample) -> Result<AddSampleResponse, ClientError> {
        let request = self.request(AddSampleRequest { sample: Some(sample) });
        Ok(self.samples().add_sample(request).await?.into_inner())
    }

    /// Stores samples as they come; each acknowledgement means that the sample is durable.
    ///
    /// # Errors
    /// Where the stream cannot be opened.
    pub async fn stream_samples<S>(&self, samples: S) -> Result<AcknowledgementStream, ClientError>
    where
        S: Stream<Item = StreamSamplesRequest> + Send + 'static,
    {
        Ok(AcknowledgementStream(self.samples().stream_samples(samples).await?.into_inner()))
    }

    /// A page of samples, oldest first.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn list_samples(
        &self,
        request: ListSamplesRequest,
    ) -> Result<ListSamplesResponse, ClientError> {
        Ok(self.samples().list_samples(self.request(request)).await?.into_inner())
    }

    /// One sample, with its photograph where wanted and kept.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn get_sample(
        &self,
        request: GetSampleRequest,
    ) -> Result<GetSampleResponse, ClientError> {
        Ok(self.samples().get_sample(self.request(request)).await?.into_inner())
    }

    /// Changes a sample's labels, split, weight, note or pin.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn update_sample(
        &self,
        request: UpdateSampleRequest,
    ) -> Result<Option<Sample>, ClientError> {
        Ok(self.samples().update_sample(self.request(request)).await?.into_inner().sample)
    }

    /// Deletes samples.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn delete_samples(
        &self,
        request: DeleteSamplesRequest,
    ) -> Result<DeleteSamplesResponse, ClientError> {
        Ok(self.samples().delete_samples(self.request(request)).await?.into_inner())
    }

    /// The datasets on the device, by name.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn list_datasets(&self) -> Result<Vec<Dataset>, ClientError> {
        let request = self.request(ListDatasetsRequest {});
        Ok(self.samples().list_datasets(request).await?.into_inner().datasets)
    }

    /// Sets what a dataset keeps.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn configure_dataset(
        &self,
        dataset: &str,
        settings: DatasetSettings,
    ) -> Result<Option<Dataset>, ClientError> {
        let request = self.request(ConfigureDatasetRequest {
            dataset: dataset.to_owned(),
            settings: Some(settings),
        });
        Ok(self.samples().configure_dataset(request).await?.into_inner().dataset)
    }

    /// What is wrong with a dataset; an empty `backbone` means the default one.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn get_dataset_report(
        &self,
        dataset: &str,
        backbone: &str,
    ) -> Result<GetDatasetReportResponse, ClientError> {
        let request = self.request(GetDatasetReportRequest {
            dataset: dataset.to_owned(),
            backbone: backbone.to_owned(),
        });
        Ok(self.samples().get_dataset_report(request).await?.into_inner())
    }
}

/// The acknowledgements of a [`Client::stream_samples`].
#[derive(Debug)]
pub struct AcknowledgementStream(Streaming<StreamSamplesResponse>);

impl AcknowledgementStream {
    /// The next sample's correlation id and result; `None` once all are given. An error in the
    /// result is that sample's own and does not end the stream.
    ///
    /// # Errors
    /// Where the stream itself breaks off.
    pub async fn next(
        &mut self,
    ) -> Result<Option<(String, Result<SampleAcknowledgement, ClientError>)>, ClientError> {
        let Some(message) = self.0.next().await.transpose()? else { return Ok(None) };
        let result = match message.result {
            Some(Outcome::Stored(acknowledgement)) => Ok(acknowledgement),
            Some(Outcome::Failure(failure)) => Err(failure.into()),
            None => Err(ClientError::local(
                ErrorKind::Internal,
                "the device sent an answer without a result; is it newer than this client?",
            )),
        };
        Ok(Some((message.correlation_id, result)))
    }
}
