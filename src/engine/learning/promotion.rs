//! Whether a new version of a head goes live.

use serde::{Deserialize, Serialize};

use crate::train::Report;

/// When a new version goes live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// When a person says so.
    Manual,
    /// When it is not worse than the live one.
    #[default]
    IfBetter,
    /// At once.
    Always,
}

/// A policy with its limits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Promotion {
    /// When.
    pub policy: Policy,
    /// How far accuracy may lie below the live version's, 0 to 1.
    pub tolerance: f64,
    /// How far any class's recall may lie below the live version's, 0 to 1.
    pub class_tolerance: f64,
}

impl Default for Promotion {
    fn default() -> Self {
        Self { policy: Policy::default(), tolerance: 0.01, class_tolerance: 0.1 }
    }
}

/// What was decided and why, for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it goes live.
    pub promote: bool,
    /// Why.
    pub message: String,
}

/// Shares of the same samples: a tolerance of 0 must let an equal share pass.
const ROUNDING: f64 = 1e-9;

/// Decides. `new` and `live` are of the same held-out samples, which neither version was trained
/// on; `None` where there are none, or no version is live.
pub fn decide(
    promotion: &Promotion,
    new: Option<&Report>,
    live: Option<&Report>,
    has_live: bool,
) -> Decision {
    let yes = |message: String| Decision { promote: true, message };
    let no = |message: String| Decision { promote: false, message };
    match promotion.policy {
        Policy::Manual => return no("promotion is manual: activate it when you are ready".into()),
        Policy::Always => return yes("promotion is set to always".into()),
        Policy::IfBetter => {}
    }
    if new.is_some_and(|new| !(new.accuracy.is_finite() && new.log_loss.is_finite())) {
        return no("its answers on the held-out samples are not finite".into());
    }
    if !has_live {
        return yes("it is the first version".into());
    }
    let (Some(new), Some(live)) = (new, live) else {
        return no("there are no held-out samples to compare it with the live version on: add \
                   some, or activate it by hand"
            .into());
    };
    let percent = |share: f64| 100.0 * share;
    if new.accuracy + promotion.tolerance + ROUNDING < live.accuracy {
        return no(format!(
            "held-out accuracy {:.1} % is below the live version's {:.1} % by more than {:.1} \
             points",
            percent(new.accuracy),
            percent(live.accuracy),
            percent(promotion.tolerance)
        ));
    }
    for class in live.per_class.iter().filter(|class| class.samples > 0) {
        let recall = new
            .per_class
            .iter()
            .find(|other| other.label == class.label)
            .map_or(0.0, |other| other.recall);
        if recall + promotion.class_tolerance + ROUNDING < class.recall {
            return no(format!(
                "recall of class {:?} fell from {:.1} % to {:.1} %, by more than {:.1} points",
                class.label,
                percent(class.recall),
                percent(recall),
                percent(promotion.class_tolerance)
            ));
        }
    }
    yes(format!(
        "held-out accuracy {:.1} % against the live version's {:.1} % on the same {} samples",
        percent(new.accuracy),
        percent(live.accuracy),
        new.samples
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(right: [u32; 2], of: u32) -> Report {
        let classes = ["a", "b"].map(String::from);
        let mut labels = Vec::new();
        let mut scores = Vec::new();
        for class in 0..2_usize {
            for sample in 0..of {
                labels.push(class as u32);
                let said = if sample < right[class] { class } else { 1 - class };
                scores.extend((0..2).map(|c| if c == said { 1.0_f32 } else { 0.0 }));
            }
        }
        Report::new(&classes, &labels, &scores, 1.0)
    }

    fn better(new: &Report, live: &Report) -> Decision {
        decide(&Promotion::default(), Some(new), Some(live), true)
    }

    #[test]
    fn a_version_that_is_not_worse_goes_live_and_one_that_is_does_not() {
        let live = report([90, 90], 100);
        assert!(better(&report([95, 95], 100), &live).promote);
        assert!(better(&live, &live).promote);
        assert!(better(&report([89, 89], 100), &live).promote, "within the tolerance");
        let worse = better(&report([88, 88], 100), &live);
        assert!(!worse.promote && worse.message.contains("88.0 %"), "{}", worse.message);
    }

    #[test]
    fn a_class_that_is_lost_stops_a_version_that_is_better_on_the_whole() {
        let lost = better(&report([100, 79], 100), &report([89, 90], 100));
        assert!(!lost.promote && lost.message.contains("\"b\""), "{}", lost.message);
    }

    #[test]
    fn answers_that_are_not_finite_never_go_live_under_if_better() {
        let mut broken = report([100, 100], 100);
        broken.log_loss = f64::NAN;
        assert!(!better(&broken, &report([1, 1], 100)).promote);
        assert!(!decide(&Promotion::default(), Some(&broken), None, false).promote);
    }

    #[test]
    fn without_held_out_samples_only_a_first_version_goes_live() {
        assert!(decide(&Promotion::default(), None, None, false).promote);
        assert!(!decide(&Promotion::default(), None, None, true).promote);
    }

    #[test]
    fn manual_never_and_always_ever() {
        let (good, bad) = (report([100, 100], 100), report([0, 0], 100));
        let with = |policy| Promotion { policy, ..Promotion::default() };
        assert!(!decide(&with(Policy::Manual), Some(&good), Some(&bad), true).promote);
        assert!(decide(&with(Policy::Always), Some(&bad), Some(&good), true).promote);
    }
}
