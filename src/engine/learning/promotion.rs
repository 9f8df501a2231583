//! Whether a new version of a head goes live.

use std::fmt;

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

/// What a version is to the one that goes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It answers now.
    Live,
    /// By its number, the one that a person, or the policy `always`, made live and the line began with.
    First(u32),
    /// By its number, the most accurate since.
    Best(u32),
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live => f.write_str("the live version"),
            Self::First(version) => write!(f, "version {version}, which began this line"),
            Self::Best(version) => write!(f, "version {version}, the best of this line"),
        }
    }
}

/// A version that a new one must not fall below.
#[derive(Clone, Debug, PartialEq)]
pub struct Rival {
    /// What it is.
    pub role: Role,
    /// How it does on the samples that the new one is judged on.
    pub report: Report,
}

/// Decides. `new` is on held-out samples that no version was trained on, `None` where there are none;
/// `rivals` begin with the live version, `None` where none is live, empty where it cannot be judged.
pub fn decide(promotion: &Promotion, new: Option<&Report>, rivals: Option<&[Rival]>) -> Decision {
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
    let Some(rivals) = rivals else { return yes("it is the first version".into()) };
    let Some(new) = new else {
        return no("there are no held-out samples to compare it with the live version on: add \
                   some, or activate it by hand"
            .into());
    };
    let Some(live) = rivals.first() else {
        return no(
            "the live version cannot be judged on the same samples, for want of its backbone, its \
                   file or room for embeddings, or because only one of the two is multi-label: \
                   activate the new one by hand"
                .into(),
        );
    };
    if let Some(reason) = rivals.iter().find_map(|rival| falls_below(promotion, new, rival)) {
        return no(reason);
    }
    yes(format!(
        "held-out accuracy {:.1} % against the live version's {:.1} % on the same {} samples",
        percent(new.accuracy),
        percent(live.report.accuracy),
        new.samples
    ))
}

/// Why the new version is worse than a rival, if it is.
fn falls_below(promotion: &Promotion, new: &Report, rival: &Rival) -> Option<String> {
    let Rival { role, report } = rival;
    if new.accuracy + promotion.tolerance + ROUNDING < report.accuracy {
        return Some(format!(
            "held-out accuracy {:.1} % is below the {:.1} % of {role} by more than {:.1} points",
            percent(new.accuracy),
            percent(report.accuracy),
            percent(promotion.tolerance)
        ));
    }
    report.per_class.iter().filter(|class| class.samples > 0).find_map(|class| {
        let of_new = new.per_class.iter().find(|other| other.label == class.label);
        let recall = of_new.map_or(0.0, |other| other.recall);
        (recall + promotion.class_tolerance + ROUNDING < class.recall).then(|| {
            format!(
                "recall of class {:?} is {:.1} %, below the {:.1} % of {role} by more than {:.1} \
                 points",
                class.label,
                percent(recall),
                percent(class.recall),
                percent(promotion.class_tolerance)
            )
        })
    })
}

fn percent(share: f64) -> f64 {
    100.0 * share
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cancel::Cancel;
    use crate::{heads, train};

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
        Report::new(&classes, &labels, &scores, 1.0, &Cancel::default()).unwrap()
    }

    fn rival(role: Role, report: &Report) -> Rival {
        Rival { role, report: report.clone() }
    }

    fn better(new: &Report, live: &Report) -> Decision {
        decide(&Promotion::default(), Some(new), Some(&[rival(Role::Live, live)]))
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
        // Finite parameters, and a score beyond what f32 holds.
        let weights = heads::Matrix::new(2, 1, vec![f32::MAX, 1.0]).unwrap();
        let linear = heads::Linear::new(weights, vec![0.0; 2]).unwrap();
        let (classes, none) = (["a", "b"].map(String::from).to_vec(), heads::Transform::default());
        let classifier = heads::Classifier::Linear(linear);
        let head = heads::Head::new(heads::Kind::Softmax, classes.clone(), none, classifier);
        let rows = train::DenseRows::new(&[2.0], 1).unwrap();
        let samples = train::Samples::new(&rows, vec![0], classes);
        let broken = train::evaluate(&head.unwrap(), &samples, &Cancel::default()).unwrap();
        assert_eq!(broken.accuracy, 1.0);
        assert!(!better(&broken, &report([1, 1], 100)).promote);
        assert!(!decide(&Promotion::default(), Some(&broken), None).promote);
    }

    #[test]
    fn a_step_within_the_tolerance_of_the_live_version_alone_is_not_enough() {
        let (first, best) = (report([92, 88], 100), report([95, 93], 100));
        let live = report([93, 93], 100);
        let rivals = |best: &Report, first: &Report| {
            let others = [rival(Role::Best(5), best), rival(Role::First(2), first)];
            [vec![rival(Role::Live, &live)], others.to_vec()].concat()
        };
        let step = report([92, 92], 100);
        assert!(better(&step, &live).promote, "one step down");
        let two_steps = decide(&Promotion::default(), Some(&step), Some(&rivals(&best, &first)));
        let message = &two_steps.message;
        assert!(!two_steps.promote && message.contains("94.0 % of version 5"), "{message}");
        // A class may not be lost in small steps either, though accuracy holds.
        let first = report([99, 85], 100);
        let step = report([88, 97], 100);
        let lost = decide(&Promotion::default(), Some(&step), Some(&rivals(&live, &first)));
        let message = &lost.message;
        assert!(!lost.promote && message.contains("99.0 % of version 2"), "{message}");
    }

    #[test]
    fn without_held_out_samples_only_a_first_version_goes_live() {
        let promotion = Promotion::default();
        assert!(decide(&promotion, None, None).promote);
        assert!(!decide(&promotion, None, Some(&[])).promote);
    }

    #[test]
    fn a_live_version_that_cannot_be_judged_is_not_replaced_by_itself() {
        let good = report([100, 100], 100);
        let kept = decide(&Promotion::default(), Some(&good), Some(&[]));
        assert!(!kept.promote && kept.message.contains("backbone"), "{}", kept.message);
    }

    #[test]
    fn manual_never_and_always_ever() {
        let (good, bad) = (report([100, 100], 100), report([0, 0], 100));
        let with = |policy| Promotion { policy, ..Promotion::default() };
        let decide = |policy, new, live| {
            decide(&with(policy), Some(new), Some(&[rival(Role::Live, live)])).promote
        };
        assert!(!decide(Policy::Manual, &good, &bad));
        assert!(decide(Policy::Always, &bad, &good));
    }
}
