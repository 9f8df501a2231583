//! Training on a device.

use tokio_stream::{Stream, StreamExt};

use super::connection::Client;
use super::error::ClientError;
use crate::proto::graft::{
    CancelJobRequest, GetJobRequest, Job, ListJobsRequest, ListJobsResponse,
    StartFineTuningRequest, StartTrainingRequest, WatchJobRequest,
};

impl Client {
    /// Starts training a head; the job runs on the device.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn start_training(
        &self,
        request: StartTrainingRequest,
    ) -> Result<Option<Job>, ClientError> {
        Ok(self.training().start_training(self.request(request)).await?.into_inner().job)
    }

    /// Starts fine-tuning a backbone's tail; the job runs on the device.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn start_fine_tuning(
        &self,
        request: StartFineTuningRequest,
    ) -> Result<Option<Job>, ClientError> {
        Ok(self.training().start_fine_tuning(self.request(request)).await?.into_inner().job)
    }

    /// One job.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn get_job(&self, id: &str) -> Result<Option<Job>, ClientError> {
        let request = self.request(GetJobRequest { id: id.to_owned() });
        Ok(self.training().get_job(request).await?.into_inner().job)
    }

    /// A page of jobs, latest first.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn list_jobs(
        &self,
        request: ListJobsRequest,
    ) -> Result<ListJobsResponse, ClientError> {
        Ok(self.training().list_jobs(self.request(request)).await?.into_inner())
    }

    /// The job now and after every change, until it has ended.
    ///
    /// # Errors
    /// Where the stream cannot be opened; later ones come as items.
    pub async fn watch_job(
        &self,
        id: &str,
    ) -> Result<impl Stream<Item = Result<Job, ClientError>> + Send + Unpin + use<>, ClientError>
    {
        // Watching lasts as long as the job: no time limit.
        let request = WatchJobRequest { id: id.to_owned() };
        let stream = self.training().watch_job(request).await?.into_inner();
        Ok(stream.filter_map(|item| item.map_err(ClientError::from).map(|m| m.job).transpose()))
    }

    /// Cancels a job and gives its record.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn cancel_job(&self, id: &str) -> Result<Option<Job>, ClientError> {
        let request = self.request(CancelJobRequest { id: id.to_owned() });
        Ok(self.training().cancel_job(request).await?.into_inner().job)
    }
}
