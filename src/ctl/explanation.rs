//! How to explain: the arguments that `explain` and `audit` share.

use clap::{Args, ValueEnum};

use crate::client::messages::{self, ExplainMethod, ExplainOptions, MapScaling};

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Explanation")]
pub struct How {
    /// Layers by name, averaged. Default: the last spatial one on which the score depends.
    #[arg(long = "layer", value_name = "NAME")]
    layers: Vec<String>,
    /// The method.
    #[arg(long, value_enum, default_value_t = Method::GradCam)]
    method: Method,
    /// What is differentiated.
    #[arg(long, value_enum, default_value_t = ScoreKind::Logit)]
    score_kind: ScoreKind,
    /// Which evidence the map shows.
    #[arg(long, value_enum, default_value_t = Evidence::For)]
    evidence: Evidence,
    /// Subtract the map's minimum before scaling, as pytorch-grad-cam does.
    #[arg(long)]
    subtract_minimum: bool,
    /// Average with the map of the mirrored photograph.
    #[arg(long)]
    flip_smoothing: bool,
    /// Use the first principal component over the channels.
    #[arg(long)]
    eigen_smoothing: bool,
    /// Noisy copies of smooth-grad. Default: 25.
    #[arg(long)]
    samples: Option<u32>,
    /// Noise of smooth-grad as a share of the input's range. Default: 0.15.
    #[arg(long)]
    noise: Option<f32>,
    /// Channels that score-cam and ablation-cam run, the most active first. Default: all.
    #[arg(long, value_name = "N")]
    top_channels: Option<u32>,
    /// Share of the map's maximum at which the box is drawn. Default: 0.5.
    #[arg(long)]
    box_threshold: Option<f32>,
    /// Seed of whatever is drawn at random.
    #[arg(long, default_value_t)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Method {
    GradCam,
    #[value(name = "grad-cam++")]
    GradCamPlusPlus,
    #[value(name = "hires-cam")]
    HiResCam,
    #[value(name = "xgrad-cam")]
    XGradCam,
    LayerCam,
    EigenCam,
    ScoreCam,
    AblationCam,
    InputGradient,
    SmoothGrad,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ScoreKind {
    Logit,
    Probability,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Evidence {
    For,
    Against,
    Signed,
}

impl From<Method> for ExplainMethod {
    fn from(method: Method) -> Self {
        match method {
            Method::GradCam => Self::GradCam,
            Method::GradCamPlusPlus => Self::GradCamPlusPlus,
            Method::HiResCam => Self::HiResCam,
            Method::XGradCam => Self::XGradCam,
            Method::LayerCam => Self::LayerCam,
            Method::EigenCam => Self::EigenCam,
            Method::ScoreCam => Self::ScoreCam,
            Method::AblationCam => Self::AblationCam,
            Method::InputGradient => Self::InputGradient,
            Method::SmoothGrad => Self::SmoothGrad,
        }
    }
}

impl From<ScoreKind> for messages::ScoreKind {
    fn from(kind: ScoreKind) -> Self {
        match kind {
            ScoreKind::Logit => Self::Logit,
            ScoreKind::Probability => Self::Probability,
        }
    }
}

impl From<Evidence> for messages::Evidence {
    fn from(evidence: Evidence) -> Self {
        match evidence {
            Evidence::For => Self::For,
            Evidence::Against => Self::Against,
            Evidence::Signed => Self::Signed,
        }
    }
}

impl How {
    /// As the device takes it.
    pub fn options(&self) -> ExplainOptions {
        let scaling =
            if self.subtract_minimum { MapScaling::MinimumToMaximum } else { MapScaling::Maximum };
        ExplainOptions {
            method: ExplainMethod::from(self.method).into(),
            score_kind: messages::ScoreKind::from(self.score_kind).into(),
            layers: self.layers.clone(),
            evidence: messages::Evidence::from(self.evidence).into(),
            scaling: scaling.into(),
            flip_smoothing: self.flip_smoothing,
            eigen_smoothing: self.eigen_smoothing,
            smoothgrad_samples: self.samples,
            smoothgrad_noise: self.noise,
            channels: self.top_channels,
            box_threshold: self.box_threshold,
            seed: self.seed,
            ..ExplainOptions::default()
        }
    }

    /// Whether the map shows what speaks against the class.
    pub fn shows_against(&self) -> bool {
        matches!(self.evidence, Evidence::Against)
    }

    /// The method's name as it is written on the command line.
    pub fn method(&self) -> String {
        let value = self.method.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}
