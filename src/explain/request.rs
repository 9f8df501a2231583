//! What to explain, and how.

use std::fmt;
use std::str::FromStr;

use super::map::{Evidence, Scaling};
use super::{ExplainError, ScoreKind};

/// The explanation methods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Method {
    /// Grad-CAM (Selvaraju et al. 2017).
    #[default]
    GradCam,
    /// Grad-CAM++ (Chattopadhay et al. 2018).
    GradCamPlusPlus,
    /// `HiResCAM` (Draelos and Carin 2020).
    HiResCam,
    /// XGrad-CAM (Fu et al. 2020).
    XGradCam,
    /// Layer-CAM (Jiang et al. 2021).
    LayerCam,
    /// Eigen-CAM (Muhammad and Yeasin 2020); it looks at no class.
    EigenCam,
    /// Score-CAM (Wang et al. 2020): one forward run a channel.
    ScoreCam,
    /// Ablation-CAM (Desai and Ramaswamy 2020): one run of the tail a channel.
    AblationCam,
    /// The gradient of the score by the input (Simonyan et al. 2013).
    InputGradient,
    /// The mean of that gradient over noisy copies (Smilkov et al. 2017).
    SmoothGrad,
}

impl Method {
    /// All methods, the default first.
    pub const ALL: [Method; 10] = [
        Method::GradCam,
        Method::GradCamPlusPlus,
        Method::HiResCam,
        Method::XGradCam,
        Method::LayerCam,
        Method::EigenCam,
        Method::ScoreCam,
        Method::AblationCam,
        Method::InputGradient,
        Method::SmoothGrad,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Method::GradCam => "grad-cam",
            Method::GradCamPlusPlus => "grad-cam++",
            Method::HiResCam => "hires-cam",
            Method::XGradCam => "xgrad-cam",
            Method::LayerCam => "layer-cam",
            Method::EigenCam => "eigen-cam",
            Method::ScoreCam => "score-cam",
            Method::AblationCam => "ablation-cam",
            Method::InputGradient => "input-gradient",
            Method::SmoothGrad => "smooth-grad",
        }
    }

    /// Whether it reads the gradient at the layer.
    pub fn uses_layer_gradient(self) -> bool {
        matches!(
            self,
            Method::GradCam
                | Method::GradCamPlusPlus
                | Method::HiResCam
                | Method::XGradCam
                | Method::LayerCam
        )
    }

    /// Whether it differentiates by the input and has no layer.
    pub fn is_saliency(self) -> bool {
        matches!(self, Method::InputGradient | Method::SmoothGrad)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Method, String> {
        let names = || Method::ALL.map(Method::name).join(", ");
        Method::ALL
            .into_iter()
            .find(|method| method.name() == text)
            .ok_or_else(|| format!("{text:?} is not a method; there are {}", names()))
    }
}

/// One class, by position or by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClassName {
    /// Position in the classifier's output, from 0.
    Index(usize),
    /// Its label, or one of the synonyms that a label lists between commas.
    Label(String),
}

/// Which class is explained.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ClassSpec {
    /// The most probable one.
    #[default]
    Top,
    /// This one.
    One(ClassName),
    /// Why the first and not the second.
    Difference(ClassName, ClassName),
}

impl FromStr for ClassSpec {
    type Err = ExplainError;

    /// `""` (top), `386`, `label:tabby`, `281-207`, `label:cat-label:dog`.
    fn from_str(text: &str) -> Result<ClassSpec, ExplainError> {
        if text.is_empty() {
            return Ok(ClassSpec::Top);
        }
        if let Some(class) = one_class(text) {
            return Ok(ClassSpec::One(class));
        }
        // A label may hold hyphens; a difference needs a class after its hyphen.
        let split = |at: usize| Some((one_class(&text[..at])?, one_class(&text[at + 1..])?));
        let difference = text.match_indices('-').find_map(|(at, _)| split(at));
        let (first, second) = difference.ok_or_else(|| ExplainError::BadClass(text.to_string()))?;
        Ok(ClassSpec::Difference(first, second))
    }
}

/// An index if all digits, a label after `label:` unless a second class follows in it.
fn one_class(text: &str) -> Option<ClassName> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // An index that no number holds is past every classifier's end all the same.
        return Some(ClassName::Index(text.parse().unwrap_or(usize::MAX)));
    }
    let label = text.strip_prefix("label:")?;
    if label.is_empty() || label.contains("-label:") {
        return None;
    }
    Some(ClassName::Label(label.to_string()))
}

/// The settings of [`Method::SmoothGrad`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SmoothGrad {
    /// Noisy copies, 1 to 1000.
    pub samples: u32,
    /// Standard deviation of the noise as a share of the input's range, above 0 up to 1.
    pub noise: f32,
}

impl Default for SmoothGrad {
    fn default() -> SmoothGrad {
        SmoothGrad { samples: 25, noise: 0.15 }
    }
}

/// How to explain one input.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The class.
    pub class: ClassSpec,
    /// Which of the classifier's numbers is explained.
    pub score_kind: ScoreKind,
    /// Which evidence the map shows.
    pub evidence: Evidence,
    /// How the map is brought to its range.
    pub scaling: Scaling,
    /// Averages with the map of the mirrored input.
    pub flip_smoothing: bool,
    /// First principal component over the channels instead of their sum.
    pub eigen_smoothing: bool,
    /// For [`Method::SmoothGrad`].
    pub smooth_grad: SmoothGrad,
    /// How many channels the occluding methods run, the most active first; `None` for all.
    pub channels: Option<usize>,
    /// Seed of whatever is drawn at random.
    pub seed: u64,
    /// Share of the map's maximum at which the box is drawn, above 0 up to 1.
    pub box_threshold: f32,
}

impl Default for Request {
    fn default() -> Request {
        Request {
            method: Method::default(),
            class: ClassSpec::default(),
            score_kind: ScoreKind::default(),
            evidence: Evidence::default(),
            scaling: Scaling::default(),
            flip_smoothing: false,
            eigen_smoothing: false,
            smooth_grad: SmoothGrad::default(),
            channels: None,
            seed: 0,
            box_threshold: 0.5,
        }
    }
}

impl Request {
    /// Most noisy copies that may be asked for.
    pub const MAX_SAMPLES: u32 = 1000;

    /// Refuses numbers outside their ranges, and what no method can do, before any work starts.
    ///
    /// # Errors
    /// [`ExplainError::Range`], [`ExplainError::Unsuitable`].
    pub fn check(&self) -> Result<(), ExplainError> {
        let SmoothGrad { samples, noise } = self.smooth_grad;
        let most = Self::MAX_SAMPLES;
        let share = |value: f32| value > 0.0 && value <= 1.0;
        let checks = [
            ("smoothgrad_samples", (1..=most).contains(&samples), "1 to 1000"),
            ("smoothgrad_noise", share(noise), "above 0 up to 1"),
            ("box_threshold", share(self.box_threshold), "above 0 up to 1"),
            ("channels", self.channels.is_none_or(|n| (1..=10_000).contains(&n)), "1 to 10000"),
        ];
        if let Some((field, _, allowed)) = checks.into_iter().find(|(_, holds, _)| !holds) {
            return Err(ExplainError::Range { field, allowed });
        }
        if self.method.is_saliency() && self.evidence != Evidence::For {
            let problem = "the method tells how much each pixel matters, without a sign: there is no \
                           evidence against the class to show";
            return Err(ExplainError::Unsuitable { field: "evidence", problem });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_an_index_a_label_or_a_difference() {
        use ClassName::{Index, Label};
        let label = |text: &str| Label(text.to_string());
        for (text, expected) in [
            ("", ClassSpec::Top),
            ("386", ClassSpec::One(Index(386))),
            ("label:tabby", ClassSpec::One(label("tabby"))),
            ("label:black-and-tan coonhound", ClassSpec::One(label("black-and-tan coonhound"))),
            ("label:7-up", ClassSpec::One(label("7-up"))),
            ("281-207", ClassSpec::Difference(Index(281), Index(207))),
            ("label:cat-label:dog", ClassSpec::Difference(label("cat"), label("dog"))),
            ("99999999999999999999999", ClassSpec::One(Index(usize::MAX))),
            ("3-label:dog", ClassSpec::Difference(Index(3), label("dog"))),
        ] {
            assert_eq!(text.parse::<ClassSpec>().unwrap(), expected, "{text}");
        }
        for text in ["tabby", "-3", "3-", "label:", "1-2-3", "0x10"] {
            assert!(text.parse::<ClassSpec>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_method_is_found_under_its_own_name() {
        for method in Method::ALL {
            assert_eq!(method.name().parse::<Method>(), Ok(method));
        }
        assert!("gradcam".parse::<Method>().is_err());
    }

    #[test]
    fn a_magnitude_has_no_evidence_against() {
        for method in Method::ALL {
            for evidence in [Evidence::For, Evidence::Against, Evidence::Signed] {
                let request = Request { method, evidence, ..Request::default() };
                let fits = !method.is_saliency() || evidence == Evidence::For;
                assert_eq!(request.check().is_ok(), fits, "{method} {evidence:?}");
            }
        }
    }

    #[test]
    fn absurd_numbers_are_refused_before_any_work() {
        let with = |change: fn(&mut Request)| {
            let mut request = Request::default();
            change(&mut request);
            request.check()
        };
        assert!(with(|_| ()).is_ok());
        assert!(with(|r| r.smooth_grad.samples = 0).is_err());
        assert!(with(|r| r.smooth_grad.samples = 1_000_000_000).is_err());
        assert!(with(|r| r.smooth_grad.noise = f32::NAN).is_err());
        assert!(with(|r| r.box_threshold = 0.0).is_err());
        assert!(with(|r| r.channels = Some(0)).is_err());
        let text = with(|r| r.box_threshold = 0.0).unwrap_err().to_string();
        assert!(text.contains("box threshold") && text.contains("above 0 up to 1"), "{text}");
    }
}
