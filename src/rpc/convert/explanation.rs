//! Explanations: what is asked for, and where the network looked.

use std::collections::HashMap;
use std::time::Instant;

use super::answer::{self, novelty};
use super::field::{FieldError, Within, check_length, known, ranged};
use super::head;
use crate::engine::{Drawing, ExplainOptions, Explained, Overlay};
use crate::explain::{Evidence, Explanation, Method, Request, Scaling, ScoreKind, SmoothGrad};
use crate::proto::graft::{
    self, Box as ProtoBox, ExplainMethod, ExplainResponse, ExplainedClass, ExplanationQuality,
    MapScaling, OverlayFormat, PhotographMap, Point, Prediction,
};
use crate::vision::{BoundingBox, ColorMap, DEFAULT_STRENGTH, ImageFormat};

const MAXIMUM_LAYERS: usize = 16;
const MAXIMUM_BOXES: usize = 100;
const MAXIMUM_CLASS: usize = 500;

impl TryFrom<graft::ExplainOptions> for ExplainOptions {
    type Error = FieldError;

    fn try_from(options: graft::ExplainOptions) -> Result<Self, FieldError> {
        check_length("class", &options.class, MAXIMUM_CLASS)?;
        let class = options.class.parse().map_err(|error| FieldError::new("class", error))?;
        if options.layers.len() > MAXIMUM_LAYERS {
            return Err(FieldError::new("layers", "must be at most 16"));
        }
        let boxes = bounding_boxes("true_boxes", &options.true_boxes)?;
        let SmoothGrad { samples, noise } = SmoothGrad::default();
        let defaults = Request::default();
        let channels = match options.channels {
            None => None,
            Some(_) => Some(ranged("channels", options.channels, 1..=10_000, 1)? as usize),
        };
        let request = Request {
            method: method(known("method", options.method)?),
            class,
            score_kind: match known("score_kind", options.score_kind)? {
                graft::ScoreKind::Unspecified | graft::ScoreKind::Logit => ScoreKind::Logit,
                graft::ScoreKind::Probability => ScoreKind::Probability,
            },
            evidence: match known("evidence", options.evidence)? {
                graft::Evidence::Unspecified | graft::Evidence::For => Evidence::For,
                graft::Evidence::Against => Evidence::Against,
                graft::Evidence::Signed => Evidence::Signed,
            },
            scaling: match known("scaling", options.scaling)? {
                MapScaling::Unspecified | MapScaling::Maximum => Scaling::Maximum,
                MapScaling::MinimumToMaximum => Scaling::MinimumToMaximum,
            },
            flip_smoothing: options.flip_smoothing,
            eigen_smoothing: options.eigen_smoothing,
            smooth_grad: SmoothGrad {
                samples: ranged(
                    "smoothgrad_samples",
                    options.smoothgrad_samples,
                    1..=Request::MAX_SAMPLES,
                    samples,
                )?,
                noise: share("smoothgrad_noise", options.smoothgrad_noise, noise)?,
            },
            channels,
            seed: options.seed,
            box_threshold: share("box_threshold", options.box_threshold, defaults.box_threshold)?,
        };
        let overlay = options.overlay.map(Overlay::try_from).transpose();
        let drawing = Drawing {
            overlay: overlay.map_err(|error| error.within("overlay"))?,
            photograph_map: options.photograph_map,
        };
        let (layers, quality) = (options.layers, options.quality);
        Ok(Self { request, layers, quality, boxes, drawing })
    }
}

/// A number above 0 up to 1.
fn share(name: &str, value: Option<f32>, default: f32) -> Result<f32, FieldError> {
    match value {
        None => Ok(default),
        Some(value) if value > 0.0 && value <= 1.0 => Ok(value),
        Some(value) => Err(FieldError::new(name, format!("must be above 0 up to 1, not {value}"))),
    }
}

impl TryFrom<graft::OverlayOptions> for Overlay {
    type Error = FieldError;

    fn try_from(options: graft::OverlayOptions) -> Result<Self, FieldError> {
        let format = match known("format", options.format)? {
            OverlayFormat::Unspecified | OverlayFormat::Jpeg => ImageFormat::Jpeg { quality: 90 },
            OverlayFormat::Png => ImageFormat::Png,
        };
        let colors = match known("color_map", options.color_map)? {
            graft::ColorMap::Unspecified | graft::ColorMap::Jet => ColorMap::Jet,
            graft::ColorMap::Turbo => ColorMap::Turbo,
            graft::ColorMap::Viridis => ColorMap::Viridis,
            graft::ColorMap::Inferno => ColorMap::Inferno,
            graft::ColorMap::Magma => ColorMap::Magma,
            graft::ColorMap::Grey => ColorMap::Grey,
        };
        let strength = ranged("strength", options.strength, 0.0..=1.0, DEFAULT_STRENGTH)?;
        let in_range = |side| ranged("longest_side", Some(side), 1..=u32::from(u16::MAX), side);
        let longest_side = options.longest_side.map(in_range).transpose()?;
        Ok(Self { format, colors, strength, longest_side })
    }
}

fn method(method: ExplainMethod) -> Method {
    match method {
        ExplainMethod::Unspecified | ExplainMethod::GradCam => Method::GradCam,
        ExplainMethod::GradCamPlusPlus => Method::GradCamPlusPlus,
        ExplainMethod::HiResCam => Method::HiResCam,
        ExplainMethod::XGradCam => Method::XGradCam,
        ExplainMethod::LayerCam => Method::LayerCam,
        ExplainMethod::EigenCam => Method::EigenCam,
        ExplainMethod::ScoreCam => Method::ScoreCam,
        ExplainMethod::AblationCam => Method::AblationCam,
        ExplainMethod::InputGradient => Method::InputGradient,
        ExplainMethod::SmoothGrad => Method::SmoothGrad,
    }
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

/// The true boxes of one picture.
fn bounding_boxes(field: &str, boxes: &[ProtoBox]) -> Result<Vec<BoundingBox>, FieldError> {
    if boxes.len() > MAXIMUM_BOXES {
        return Err(FieldError::new(field, "must be at most 100"));
    }
    let holds_something = |area: &ProtoBox| area.x0 < area.x1 && area.y0 < area.y1;
    if let Some(index) = boxes.iter().position(|area| !holds_something(area)) {
        let problem = "must have x0 below x1 and y0 below y1";
        return Err(FieldError::new(format!("{field}[{index}]"), problem));
    }
    let given = boxes.iter();
    Ok(given.map(|&ProtoBox { x0, y0, x1, y1 }| BoundingBox { x0, y0, x1, y1 }).collect())
}

/// The true boxes of the samples of a dataset, by id.
pub fn boxes_of_samples(
    samples: &[graft::SampleBoxes],
) -> Result<HashMap<String, Vec<BoundingBox>>, FieldError> {
    let mut known = HashMap::new();
    for (index, sample) in samples.iter().enumerate() {
        let one = || format!("true_boxes[{index}]");
        if sample.boxes.is_empty() {
            return Err(FieldError::new("boxes", "must not be empty").within(&one()));
        }
        let boxes = bounding_boxes("boxes", &sample.boxes).within(&one())?;
        if known.insert(sample.id.clone(), boxes).is_some() {
            let problem = format!("names the sample {:?} a second time", sample.id);
            return Err(FieldError::new("id", problem).within(&one()));
        }
    }
    Ok(known)
}

/// The answer to an explain request.
pub fn explain_response(
    explained: &Explained,
    wanted: &ExplainOptions,
    top_k: usize,
    arrived: Instant,
) -> ExplainResponse {
    let answer = &explained.answer;
    let mut timings = answer::timings(&answer.timings, arrived);
    timings.explain_ms = explained.elapsed.as_secs_f64() * 1e3;
    ExplainResponse {
        backbone: answer.by.backbone.name.to_string(),
        head: answer.by.head.as_deref().map(head::answering),
        explanation: Some(explanation(explained, wanted)),
        predictions: answer.top(top_k).into_iter().map(Prediction::from).collect(),
        novelty: novelty(answer),
        timings: Some(timings),
    }
}

/// Where the network looked.
pub fn explanation(explained: &Explained, wanted: &ExplainOptions) -> graft::Explanation {
    let Explained { answer, explanation, labels, placement, drawn, .. } = explained;
    let Explanation { method, layers, score, map, region, .. } = explanation;
    let class = |index: usize, label: &str| ExplainedClass {
        index: index as u32,
        label: label.to_owned(),
        logit: answer.logits[index],
        probability: answer.probabilities[index],
    };
    let against = score.against.map(|index| class(index, labels.1.as_deref().unwrap_or("")));
    let photograph_map = drawn.photograph_map.as_ref().map(|map| PhotographMap {
        height: map.height,
        width: map.width,
        values: map.values.clone(),
    });
    graft::Explanation {
        method: ExplainMethod::from(*method).into(),
        score_kind: match score.kind {
            ScoreKind::Logit => graft::ScoreKind::Logit,
            ScoreKind::Probability => graft::ScoreKind::Probability,
        }
        .into(),
        layers: layers.clone(),
        class: Some(class(score.class, &labels.0)),
        against,
        height: map.height as u32,
        width: map.width as u32,
        map: map.values.clone(),
        raw: map.raw.clone(),
        has_positive_evidence: map.has_positive_evidence(),
        r#box: region.map(|region| {
            let BoundingBox { x0, y0, x1, y1 } = placement.box_to_picture(region.bounds);
            ProtoBox { x0, y0, x1, y1 }
        }),
        peak: region.map(|region| {
            let (x, y) = placement.to_picture_within(region.peak.0.into(), region.peak.1.into());
            Point { x: x as f32, y: y as f32 }
        }),
        box_energy: region.map_or(0.0, |region| region.energy),
        photograph_map,
        overlay: drawn.overlay.clone().unwrap_or_default(),
        quality: quality(explained, wanted),
    }
}

/// Present where it was asked for or boxes were given.
fn quality(explained: &Explained, wanted: &ExplainOptions) -> Option<ExplanationQuality> {
    let Explained { quality, pointing, .. } = explained;
    let curves = quality.as_ref();
    (wanted.quality || pointing.is_some()).then(|| ExplanationQuality {
        insertion: curves.map(|quality| quality.insertion),
        deletion: curves.map(|quality| quality.deletion),
        average_drop: curves.map(|quality| quality.average_drop),
        pointing_hit: pointing.map(|pointing| pointing.hit),
        true_box_energy: pointing.map(|pointing| pointing.energy),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(options: graft::ExplainOptions) -> Result<ExplainOptions, FieldError> {
        options.try_into()
    }

    #[test]
    fn an_empty_message_asks_for_grad_cam_of_the_most_probable_class() {
        let wanted = converted(graft::ExplainOptions::default()).unwrap();
        assert_eq!(wanted.request, Request::default());
        assert!(wanted.layers.is_empty() && wanted.drawing.is_empty());
    }

    #[test]
    fn absurd_and_unknown_numbers_are_refused_by_the_path_of_their_field() {
        let with = |change: fn(&mut graft::ExplainOptions)| {
            let mut options = graft::ExplainOptions::default();
            change(&mut options);
            converted(options).unwrap_err().path().to_owned()
        };
        assert_eq!(with(|o| o.class = "tabby".into()), "class");
        assert_eq!(with(|o| o.smoothgrad_samples = Some(1_000_000)), "smoothgrad_samples");
        assert_eq!(with(|o| o.smoothgrad_noise = Some(f32::NAN)), "smoothgrad_noise");
        assert_eq!(with(|o| o.box_threshold = Some(0.0)), "box_threshold");
        assert_eq!(with(|o| o.channels = Some(0)), "channels");
        assert_eq!(with(|o| o.layers = vec![String::new(); 17]), "layers");
        assert_eq!(with(|o| o.method = 99), "method");
        assert_eq!(with(|o| o.score_kind = 3), "score_kind");
        assert_eq!(with(|o| o.evidence = -1), "evidence");
        assert_eq!(with(|o| o.scaling = 3), "scaling");
        let strength = |o: &mut graft::ExplainOptions| {
            o.overlay = Some(graft::OverlayOptions { strength: Some(2.0), ..Default::default() });
        };
        assert_eq!(with(strength), "overlay.strength");
        let longest_side = |o: &mut graft::ExplainOptions| {
            let overlay = graft::OverlayOptions { longest_side: Some(0), ..Default::default() };
            o.overlay = Some(overlay);
        };
        assert_eq!(with(longest_side), "overlay.longest_side");
        let format = |o: &mut graft::ExplainOptions| {
            o.overlay = Some(graft::OverlayOptions { format: 3, ..Default::default() });
        };
        assert_eq!(with(format), "overlay.format");
        let color_map = |o: &mut graft::ExplainOptions| {
            o.overlay = Some(graft::OverlayOptions { color_map: 7, ..Default::default() });
        };
        assert_eq!(with(color_map), "overlay.color_map");
    }
}
