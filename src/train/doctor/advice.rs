//! What to do about a diagnosis.

use super::{Diagnosis, Flaw, groups};
use crate::train::check_class_count;

/// Samples of the largest class for one of the smallest from which a dataset counts as lopsided.
const LOPSIDED: f64 = 5.0;
/// Classes named in one piece of advice.
const NAMED: usize = 5;

/// What to do next, the most useful first, in sentences for a person; empty where nothing is wrong.
pub fn advice(diagnosis: &Diagnosis) -> Vec<String> {
    let mut advice = Vec::new();
    if diagnosis.counts.len() < 2 {
        advice.push("add samples of a second class: there is nothing to tell apart yet".to_owned());
    }
    if let Err(error) = check_class_count(diagnosis.counts.len()) {
        advice.push(error.to_string());
    }
    let groups = groups(&diagnosis.duplicates);
    let across = groups.iter().filter(|group| group.across_classes).count();
    if across > 0 {
        advice.push(format!(
            "{across} groups of the same picture carry different labels: correct the labels first, \
             nothing can learn them"
        ));
    }
    if !diagnosis.doubts.is_empty() {
        advice.push(format!(
            "look at the {} samples whose label is likely wrong and correct them, the surest first",
            diagnosis.doubts.len()
        ));
    }
    if !diagnosis.few.is_empty() {
        let names: Vec<&str> =
            diagnosis.few.iter().take(NAMED).map(|&c| diagnosis.counts[c].label.as_str()).collect();
        let more = diagnosis.few.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        advice.push(format!(
            "add samples of {}{more}: fewer than 20 each are hardly enough",
            names.join(", ")
        ));
    }
    if diagnosis.imbalance >= LOPSIDED {
        advice.push(format!(
            "the largest class has {:.0} times the samples of the smallest: add to the small ones",
            diagnosis.imbalance
        ));
    }
    let within = groups.len() - across;
    if within > 0 {
        advice.push(format!(
            "{within} groups of samples are nearly the same: they teach once; delete the copies, \
             which also make a held-out score too good"
        ));
    }
    for (flaw, what) in [
        (Flaw::OneColoured, "show one colour"),
        (Flaw::Tiny, "are tiny"),
        (Flaw::Blurred, "are blurred"),
    ] {
        let count = diagnosis.flaws.iter().filter(|(_, found)| *found == flaw).count();
        if count > 0 {
            advice.push(format!("{count} photographs {what}: delete them unless the camera is so"));
        }
    }
    advice
}
