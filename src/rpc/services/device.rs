//! `DeviceService`: the device and how it fares.

use std::time::SystemTime;

use tonic::{Request, Response, Status};

use super::Shared;
use crate::base::host::Host;
use crate::proto::graft::device_service_server::DeviceService;
use crate::proto::graft::{
    BackboneStatistics, GetDeviceRequest, GetDeviceResponse, GetStatisticsRequest,
    GetStatisticsResponse, Memory, Throttling,
};

/// The service.
#[derive(Clone, Debug)]
pub struct Device {
    shared: Shared,
    host: Host,
}

impl Device {
    /// Describes this machine and what `shared` counted.
    pub fn new(shared: Shared) -> Self {
        Self { shared, host: Host::default() }
    }
}

#[tonic::async_trait]
impl DeviceService for Device {
    async fn get_device(
        &self,
        _: Request<GetDeviceRequest>,
    ) -> Result<Response<GetDeviceResponse>, Status> {
        let memory = self.host.memory();
        let throttling = self.host.throttling().map(|found| Throttling {
            active: found.active,
            frequency_mhz: found.frequency_mhz,
            maximum_frequency_mhz: found.maximum_frequency_mhz,
            thermal_events: found.thermal_events,
        });
        let start_time = SystemTime::now().checked_sub(self.shared.meter.uptime());
        Ok(Response::new(GetDeviceResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            hostname: self.host.name(),
            operating_system: self.host.operating_system(),
            board: self.host.board(),
            architecture: std::env::consts::ARCH.to_owned(),
            processor: self.host.processor(),
            core_count: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
            worker_count: self.shared.engine.statistics().workers as u32,
            load_average: self.host.load_average(),
            memory: Some(Memory {
                total_bytes: memory.total,
                available_bytes: memory.available,
                resident_bytes: memory.resident,
            }),
            temperature_celsius: self.host.temperature(),
            throttling,
            start_time: start_time.map(Into::into),
        }))
    }

    async fn get_statistics(
        &self,
        _: Request<GetStatisticsRequest>,
    ) -> Result<Response<GetStatisticsResponse>, Status> {
        let pool = self.shared.engine.statistics();
        let meter = &self.shared.meter;
        let backbones = meter.backbones().into_iter().map(|reading| BackboneStatistics {
            backbone: reading.name.to_string(),
            completed_total: reading.count,
            median_ms: reading.median_ms,
            p99_ms: reading.p99_ms,
        });
        let backbones: Vec<_> = backbones.collect();
        Ok(Response::new(GetStatisticsResponse {
            uptime_seconds: meter.uptime().as_secs_f64(),
            queue_length: pool.queued as u64,
            queue_capacity: self.shared.engine.queue_capacity() as u64,
            running: pool.busy as u64,
            completed_total: backbones.iter().map(|backbone| backbone.completed_total).sum(),
            shed_total: pool.refused,
            cancelled_total: pool.abandoned,
            failed_total: meter.failed_total(),
            backbones,
        }))
    }
}
