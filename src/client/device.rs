//! The device and how it fares.

use super::connection::Client;
use super::error::ClientError;
use crate::proto::graft::{
    GetDeviceRequest, GetDeviceResponse, GetStatisticsRequest, GetStatisticsResponse,
};

impl Client {
    /// Describes the device now.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn get_device(&self) -> Result<GetDeviceResponse, ClientError> {
        let request = self.request(GetDeviceRequest {});
        Ok(self.device().get_device(request).await?.into_inner())
    }

    /// Counts what the daemon did since its start.
    ///
    /// # Errors
    /// As the device answers.
    pub async fn get_statistics(&self) -> Result<GetStatisticsResponse, ClientError> {
        let request = self.request(GetStatisticsRequest {});
        Ok(self.device().get_statistics(request).await?.into_inner())
    }
}
