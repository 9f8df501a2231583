//! `graftctl samples configure`: what a dataset keeps, how much of it, and which predictions it
//! captures for review.

use clap::{Args, ValueEnum};

use crate::client::messages::{CaptureSettings, Dataset, DatasetSettings, QuotaPolicy, Retention};
use crate::client::{Client, ClientError};

#[derive(Args, Debug)]
pub struct Configure {
    /// The dataset; made where it does not exist.
    #[arg(long)]
    dataset: String,
    /// What is kept of photographs that come from now on.
    #[arg(long, value_enum)]
    keep: Option<Keep>,
    /// Samples at most; 0 for no limit.
    #[arg(long, value_name = "COUNT")]
    max_samples: Option<u64>,
    /// Bytes at most; 0 for no limit.
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<u64>,
    /// What happens at the limit.
    #[arg(long, value_enum)]
    when_full: Option<WhenFull>,
    /// Share of the samples stored from now on that judge heads and never train them, 0 to 1.
    #[arg(long, value_name = "SHARE")]
    held_out: Option<f64>,
    /// Keep pictures here that this head (`any` for any) is not sure of, until a person labels them.
    #[arg(long, value_name = "HEAD", conflicts_with = "no_capture")]
    capture: Option<String>,
    /// Keep none from now on.
    #[arg(long)]
    no_capture: bool,
    /// Capture where the best class has at most this probability.
    #[arg(long, value_name = "PROBABILITY")]
    capture_below: Option<f32>,
    /// Capture what comes back as unknown too.
    #[arg(long, value_name = "BOOL")]
    capture_unknown: Option<bool>,
    /// Captured pictures at most within one hour.
    #[arg(long, value_name = "COUNT")]
    capture_hourly: Option<u32>,
    /// Captured pictures at most that wait to be labelled.
    #[arg(long, value_name = "COUNT")]
    capture_waiting: Option<u32>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Keep {
    /// The photographs as they were sent.
    Images,
    /// Small pictures, by which people can check labels.
    Thumbnails,
    /// Nothing that a person could look at.
    Embeddings,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WhenFull {
    /// New samples are refused.
    Refuse,
    /// The oldest samples that are not pinned make room.
    DropOldest,
}

impl Configure {
    /// Changes what the flags name and leaves the rest as it is.
    pub async fn run(&self, client: &Client) -> Result<Option<Dataset>, ClientError> {
        let known = client.list_datasets().await?;
        let known = known.into_iter().find(|dataset| dataset.name == self.dataset);
        let settings = known.and_then(|dataset| dataset.settings).unwrap_or_default();
        client.configure_dataset(&self.dataset, self.change(settings)).await
    }

    fn change(&self, mut settings: DatasetSettings) -> DatasetSettings {
        if let Some(keep) = self.keep {
            settings.set_retention(match keep {
                Keep::Images => Retention::Images,
                Keep::Thumbnails => Retention::Thumbnails,
                Keep::Embeddings => Retention::Embeddings,
            });
        }
        if let Some(when_full) = self.when_full {
            settings.set_quota_policy(match when_full {
                WhenFull::Refuse => QuotaPolicy::Refuse,
                WhenFull::DropOldest => QuotaPolicy::DropOldest,
            });
        }
        settings.maximum_samples = self.max_samples.unwrap_or(settings.maximum_samples);
        settings.maximum_bytes = self.max_bytes.unwrap_or(settings.maximum_bytes);
        settings.held_out_share = self.held_out.or(settings.held_out_share);
        settings.capture = self.change_capture(settings.capture);
        settings
    }

    fn change_capture(&self, known: Option<CaptureSettings>) -> Option<CaptureSettings> {
        let named = self.capture_below.is_some()
            || self.capture_unknown.is_some()
            || self.capture_hourly.is_some()
            || self.capture_waiting.is_some();
        if self.no_capture || (known.is_none() && self.capture.is_none() && !named) {
            return None;
        }
        let known = known.unwrap_or_default();
        Some(CaptureSettings {
            head: match self.capture.as_deref() {
                Some("any") => String::new(),
                Some(head) => head.to_owned(),
                None => known.head,
            },
            maximum_probability: self.capture_below.or(known.maximum_probability),
            unknown: self.capture_unknown.or(known.unknown),
            hourly_budget: self.capture_hourly.or(known.hourly_budget),
            total_budget: self.capture_waiting.or(known.total_budget),
        })
    }
}
