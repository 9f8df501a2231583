//! `graftctl device`: the device and how it fares.

use clap::Args;
use serde_json::json;

use super::{Outcome, output};
use crate::client::messages::{GetDeviceResponse, GetStatisticsResponse};
use crate::client::{Client, ClientError};

#[derive(Args, Debug)]
pub struct Device {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Device {
    pub async fn run(self, client: &Client) -> Result<Outcome, ClientError> {
        let device = client.get_device().await?;
        let statistics = client.get_statistics().await?;
        if self.json {
            print_json(&device, &statistics);
        } else {
            print_text(&device, &statistics);
        }
        Ok(Outcome::Complete)
    }
}

fn print_json(device: &GetDeviceResponse, statistics: &GetStatisticsResponse) {
    let memory = device.memory.unwrap_or_default();
    let throttling = device.throttling.map(|throttling| {
        json!({
            "active": throttling.active,
            "frequency_mhz": throttling.frequency_mhz,
            "maximum_frequency_mhz": throttling.maximum_frequency_mhz,
            "thermal_events": throttling.thermal_events,
        })
    });
    let backbones = statistics.backbones.iter().map(|backbone| {
        json!({
            "backbone": backbone.backbone,
            "completed": backbone.completed_total,
            "median_ms": backbone.median_ms,
            "p99_ms": backbone.p99_ms,
        })
    });
    output::json_line(&json!({
        "version": device.version,
        "hostname": device.hostname,
        "operating_system": device.operating_system,
        "board": device.board,
        "architecture": device.architecture,
        "processor": device.processor,
        "cores": device.core_count,
        "workers": device.worker_count,
        "load_average": device.load_average,
        "memory": {
            "total_bytes": memory.total_bytes,
            "available_bytes": memory.available_bytes,
            "resident_bytes": memory.resident_bytes,
        },
        "temperature_celsius": device.temperature_celsius,
        "throttling": throttling,
        "statistics": {
            "uptime_seconds": statistics.uptime_seconds,
            "queue_length": statistics.queue_length,
            "queue_capacity": statistics.queue_capacity,
            "running": statistics.running,
            "completed": statistics.completed_total,
            "shed": statistics.shed_total,
            "cancelled": statistics.cancelled_total,
            "failed": statistics.failed_total,
            "backbones": backbones.collect::<Vec<_>>(),
        },
    }));
}

fn print_text(device: &GetDeviceResponse, statistics: &GetStatisticsResponse) {
    let memory = device.memory.unwrap_or_default();
    let mut table = output::table(&[]);
    let mut row = |name: &str, value: String| {
        if !value.is_empty() {
            table.add_row([name.to_owned(), value]);
        }
    };
    row("graftd", device.version.clone());
    row("host", device.hostname.clone());
    row("system", device.operating_system.clone());
    row("board", device.board.clone());
    row("processor", format!("{} ({})", device.processor, device.architecture));
    row("cores", format!("{} ({} workers)", device.core_count, device.worker_count));
    row("load", device.load_average.map(|load| format!("{load:.2}")).unwrap_or_default());
    row(
        "memory",
        format!(
            "{} held, {} of {} free",
            output::bytes(memory.resident_bytes),
            output::bytes(memory.available_bytes),
            output::bytes(memory.total_bytes)
        ),
    );
    let temperature = device.temperature_celsius.map(|degrees| format!("{degrees:.1} °C"));
    row("temperature", temperature.unwrap_or_default());
    let throttled = device.throttling.is_some_and(|throttling| throttling.active);
    row("throttled", if throttled { "yes" } else { "no" }.to_owned());
    row("uptime", format!("{:.0} s", statistics.uptime_seconds));
    row(
        "images",
        format!(
            "{} answered, {} shed, {} given up, {} failed",
            statistics.completed_total,
            statistics.shed_total,
            statistics.cancelled_total,
            statistics.failed_total
        ),
    );
    row("queue", format!("{} of {}", statistics.queue_length, statistics.queue_capacity));
    for backbone in &statistics.backbones {
        row(
            &backbone.backbone,
            format!("median {:.1} ms, p99 {:.1} ms", backbone.median_ms, backbone.p99_ms),
        );
    }
    output::print_table(&table);
}
