//! Reaching a device.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use super::error::{ClientError, ErrorKind};

/// How a [`Client`] connects.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long connecting may take. Default 5 seconds.
    pub connect_timeout: Duration,
    /// How long one unary call may take; the device gives up the work when it has passed. Default:
    /// no limit.
    pub request_timeout: Option<Duration>,
    /// The largest answer accepted, in bytes. Default 64 MiB.
    pub maximum_message_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            request_timeout: None,
            maximum_message_bytes: 64 << 20,
        }
    }
}

/// A connection to one device. Clones share it; calls run side by side on it.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    options: Options,
}

/// Makes a generated client of one service on the shared channel.
macro_rules! service {
    ($name:ident, $module:ident, $client:ident) => {
        pub(super) fn $name(
            &self,
        ) -> crate::proto::graft::$module::$client<tonic::transport::Channel> {
            crate::proto::graft::$module::$client::new(self.channel.clone())
                .max_decoding_message_size(self.options.maximum_message_bytes)
                .max_encoding_message_size(usize::MAX)
        }
    };
}

impl Client {
    /// Connects to `target`, which is `HOST:PORT`, `HOST` for port 7411, or `http://HOST:PORT`.
    ///
    /// # Errors
    /// Where `target` is not an address, or nothing answers there.
    pub async fn connect(target: &str) -> Result<Self, ClientError> {
        Self::connect_with(target, Options::default()).await
    }

    /// As [`Client::connect`], with other options.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_with(target: &str, options: Options) -> Result<Self, ClientError> {
        let endpoint = endpoint(target, &options)?;
        let channel =
            endpoint.connect().await.map_err(|error| ClientError::unreachable(target, &error))?;
        Ok(Self { channel, options })
    }

    /// A request with the client's time limit on it.
    pub(super) fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(limit) = self.options.request_timeout {
            request.set_timeout(limit);
        }
        request
    }

    service!(inference, inference_service_client, InferenceServiceClient);
    service!(explanation, explanation_service_client, ExplanationServiceClient);
    service!(backbones, backbone_service_client, BackboneServiceClient);
    service!(device, device_service_client, DeviceServiceClient);
    service!(samples, sample_service_client, SampleServiceClient);
    service!(training, training_service_client, TrainingServiceClient);
    service!(heads, head_service_client, HeadServiceClient);
}

/// The port on which graftd listens unless told otherwise.
const PORT: u16 = 7411;

/// The address of `HOST`, `HOST:PORT` or a whole URI, which is left as it is.
fn uri(target: &str) -> String {
    if target.contains("://") {
        return target.to_owned();
    }
    // The colons within the brackets of an IPv6 address begin no port.
    let behind_host = target.rsplit(']').next().unwrap_or(target);
    if behind_host.contains(':') {
        format!("http://{target}")
    } else {
        format!("http://{target}:{PORT}")
    }
}

fn endpoint(target: &str, options: &Options) -> Result<Endpoint, ClientError> {
    let uri = uri(target);
    let endpoint = Endpoint::from_shared(uri).map_err(|error| {
        ClientError::local(
            ErrorKind::InvalidArgument,
            format!("{target:?} is not an address ({error}): use HOST:PORT"),
        )
    })?;
    Ok(endpoint
        .connect_timeout(options.connect_timeout)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .tcp_nodelay(true)
        // A photograph is larger than HTTP/2's default window of 64 KiB: without a larger one, every
        // upload waits for window updates.
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_without_a_port_means_graftd_s_own() {
        for (target, expected) in [
            ("127.0.0.1", "http://127.0.0.1:7411"),
            ("camera.local:80", "http://camera.local:80"),
            ("[::1]", "http://[::1]:7411"),
            ("[::1]:80", "http://[::1]:80"),
            ("https://camera", "https://camera"),
        ] {
            assert_eq!(uri(target), expected);
        }
    }
}
