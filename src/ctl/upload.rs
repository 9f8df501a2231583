//! `graftctl backbones upload`: an ONNX file and what there is to say of it.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::batch;
use crate::client::messages::{
    Backbone, BackboneManifest, ChannelOrder, Preprocessing, ResizePolicy, TensorNames,
};
use crate::client::{Client, ClientError, ErrorKind};
use crate::terminal::{fraction, triple};

#[derive(Args, Debug)]
pub struct Upload {
    /// The ONNX file.
    file: PathBuf,
    /// Its id on the device.
    #[arg(long)]
    id: String,
    /// Replace a backbone of the same id; requests that run finish with the old one.
    #[arg(long)]
    replace: bool,
    /// Labels, one a line.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Its name for people [default: the id].
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// The licence of its weights, an SPDX expression.
    #[arg(long, default_value = "", hide_default_value = true)]
    licence: String,
    /// Where it came from.
    #[arg(long, default_value = "", hide_default_value = true)]
    source: String,
    /// SHA-256 that the file must have, 64 hexadecimal digits.
    #[arg(long, default_value = "", hide_default_value = true)]
    sha256: String,
    #[command(flatten)]
    preprocessing: PreprocessingFlags,
    #[command(flatten)]
    tensors: TensorFlags,
}

const PREPROCESSING: &str = "Preprocessing";

#[derive(Args, Debug)]
struct PreprocessingFlags {
    /// The usual preprocessing that it was trained with.
    #[arg(long, value_enum, help_heading = PREPROCESSING)]
    #[arg(required_unless_present_all = ["scale", "mean", "std"])]
    preset: Option<Preset>,
    /// How photographs are made square.
    #[arg(long, value_enum, default_value_t = Resize::Crop, help_heading = PREPROCESSING)]
    resize: Resize,
    /// Order of the channels.
    #[arg(long, value_enum, help_heading = PREPROCESSING)]
    channels: Option<Channels>,
    /// Factor on pixels of 0 to 255, a number or a fraction such as 1/255.
    #[arg(long, value_parser = fraction, help_heading = PREPROCESSING)]
    scale: Option<f32>,
    /// Taken off after scaling, in the model's channel order: R,G,B or one number for all.
    #[arg(long, value_parser = triple, allow_hyphen_values = true, help_heading = PREPROCESSING)]
    mean: Option<[f32; 3]>,
    /// Divided by after that, in the model's channel order: R,G,B or one number for all.
    #[arg(long, value_parser = triple, help_heading = PREPROCESSING)]
    std: Option<[f32; 3]>,
    /// Side of the square input, in pixels [default: the network's own].
    #[arg(long, default_value_t = 0, hide_default_value = true, help_heading = PREPROCESSING)]
    size: u32,
}

const TENSORS: &str = "ONNX tensors instead of those found by structure";

#[derive(Args, Debug)]
struct TensorFlags {
    /// The image input.
    #[arg(long, value_name = "TENSOR", help_heading = TENSORS)]
    input: Option<String>,
    /// The classifier's output before softmax or sigmoid.
    #[arg(long, value_name = "TENSOR", help_heading = TENSORS)]
    logits: Option<String>,
    /// The vector that enters the classifier, or a feature map whose mean over space does.
    #[arg(long, value_name = "TENSOR", help_heading = TENSORS)]
    embedding: Option<String>,
    /// The network has no classifier: its output is the embedding.
    #[arg(long, help_heading = TENSORS)]
    no_classifier: bool,
    /// The only tensors at which the network may be cut.
    #[arg(long, value_name = "TENSOR", value_delimiter = ',', help_heading = TENSORS)]
    waists: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Preset {
    /// RGB, standardised as torchvision and timm do.
    Imagenet,
    /// RGB, -1 to 1 (TensorFlow).
    Tf,
    /// BGR, 0 to 255 less the mean of each channel (Caffe).
    Caffe,
    /// RGB, 0 to 1.
    Unit,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Resize {
    Crop,
    Squash,
    Pad,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Channels {
    Rgb,
    Bgr,
    Gray,
}

impl Preset {
    /// Channels, scale, mean and standard deviation.
    fn parts(self) -> (ChannelOrder, f32, [f32; 3], [f32; 3]) {
        let unit = 1.0 / 255.0;
        match self {
            Self::Imagenet => {
                (ChannelOrder::Rgb, unit, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
            }
            Self::Tf => (ChannelOrder::Rgb, 1.0 / 127.5, [1.0; 3], [1.0; 3]),
            Self::Caffe => (ChannelOrder::Bgr, 1.0, [104.0, 117.0, 123.0], [1.0; 3]),
            Self::Unit => (ChannelOrder::Rgb, unit, [0.0; 3], [1.0; 3]),
        }
    }
}

impl From<Channels> for ChannelOrder {
    fn from(channels: Channels) -> Self {
        match channels {
            Channels::Rgb => Self::Rgb,
            Channels::Bgr => Self::Bgr,
            Channels::Gray => Self::Gray,
        }
    }
}

impl PreprocessingFlags {
    fn message(&self) -> Preprocessing {
        // Without a preset, clap saw to it that there is something in place of each of its numbers.
        let (channels, scale, mean, std) = self.preset.unwrap_or(Preset::Unit).parts();
        let channels = self.channels.map_or(channels, ChannelOrder::from);
        let resize = match self.resize {
            Resize::Crop => ResizePolicy::Crop,
            Resize::Squash => ResizePolicy::Squash,
            Resize::Pad => ResizePolicy::Pad,
        };
        let count = if channels == ChannelOrder::Gray { 1 } else { 3 };
        Preprocessing {
            size: self.size,
            resize: resize.into(),
            channels: channels.into(),
            scale: self.scale.unwrap_or(scale),
            mean: self.mean.unwrap_or(mean)[..count].to_vec(),
            std: self.std.unwrap_or(std)[..count].to_vec(),
        }
    }
}

impl TensorFlags {
    fn message(&self) -> TensorNames {
        TensorNames {
            input: self.input.clone().unwrap_or_default(),
            logits: self.logits.clone().unwrap_or_default(),
            embedding: self.embedding.clone().unwrap_or_default(),
            no_classifier: self.no_classifier,
            waists: self.waists.clone(),
        }
    }
}

impl Upload {
    pub async fn run(&self, client: &Client) -> Result<Option<Backbone>, ClientError> {
        if self.preprocessing.scale == Some(0.0) {
            // On the wire, zero is what a scale that is not set looks like.
            let message = "--scale: 0 is not a finite number above zero";
            return Err(ClientError::local(ErrorKind::InvalidArgument, message));
        }
        let local = |path: &Path, error: std::io::Error| {
            let message = format!("cannot read {}: {error}", path.display());
            ClientError::local(ErrorKind::InvalidArgument, message)
        };
        let labels = match &self.labels {
            Some(path) => std::fs::read_to_string(path).map_err(|error| local(path, error))?,
            None => String::new(),
        };
        let size = self.file.metadata().map_err(|error| local(&self.file, error))?.len();
        let manifest = BackboneManifest {
            id: self.id.clone(),
            name: self.name.clone(),
            preprocessing: Some(self.preprocessing.message()),
            labels: labels.lines().map(str::to_owned).collect(),
            licence: self.licence.clone(),
            source: self.source.clone(),
            sha256: self.sha256.clone(),
            size_bytes: size,
            replace: self.replace,
            tensors: Some(self.tensors.message()),
        };
        let bar = batch::progress_bar(size, "bytes");
        let sent = bar.clone();
        let progress = Box::new(move |bytes| sent.set_position(bytes));
        let answer = client.upload_backbone(manifest, &self.file, progress).await;
        bar.finish_and_clear();
        answer
    }
}
