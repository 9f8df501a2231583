//! What `graftctl samples report` prints: findings with the ids by which they are put right.

use serde_json::{Value, json};

use super::output;
use crate::client::messages::{GetDatasetReportResponse, PoorImageReason};

/// Findings of one sort that a person is shown; `--json` has all.
const SHOWN: usize = 20;

/// Prints a report: one JSON object, or tables and what to do.
pub fn show(report: &GetDatasetReportResponse, dataset: &str, json: bool) {
    if json {
        output::json_line(&object(report, dataset));
        return;
    }
    classes(report);
    section(
        "the same or nearly the same",
        report.duplicates.len(),
        &["similar", "", "samples"],
        || {
            report.duplicates.iter().map(|group| {
                let labels = if group.across_classes { "DIFFERENT LABELS" } else { "" };
                vec![format!("{:.3}", group.similarity), labels.to_owned(), group.ids.join("  ")]
            })
        },
    );
    section(
        "labels that are likely wrong",
        report.suspicions.len(),
        &["sample", "label", "rather", "the label's probability"],
        || {
            report.suspicions.iter().map(|found| {
                let probability = format!("{:.1} %", 100.0 * found.label_probability);
                vec![
                    found.id.clone(),
                    found.label.clone(),
                    found.suggested_label.clone(),
                    probability,
                ]
            })
        },
    );
    section("poor photographs", report.poor_images.len(), &["sample", "what is wrong"], || {
        report
            .poor_images
            .iter()
            .map(|found| vec![found.id.clone(), reason(found.reason()).to_owned()])
    });
    section("taken for each other", report.confusions.len(), &["times", "label", "called"], || {
        report.confusions.iter().map(|found| {
            vec![found.count.to_string(), found.label.clone(), found.predicted_label.clone()]
        })
    });
    output::line("");
    if report.advice.is_empty() {
        output::line("nothing to put right was found");
    }
    for (number, advice) in report.advice.iter().enumerate() {
        output::line(format_args!("{}. {advice}", number + 1));
    }
    if let Some(first) = report.suspicions.first() {
        output::line(format_args!(
            "   for example: graftctl samples label --dataset {dataset} {:?} {:?}",
            first.id, first.suggested_label
        ));
    }
}

fn classes(report: &GetDatasetReportResponse) {
    let Some(dataset) = &report.dataset else { return };
    let mut table = output::table(&["class", "training", "held out"]);
    for label in &dataset.labels {
        table.add_row([
            label.label.clone(),
            label.train_count.to_string(),
            label.held_out_count.to_string(),
        ]);
    }
    output::align_right(&mut table, &[1, 2]);
    output::print_table(&table);
    if let Some(accuracy) = report.accuracy {
        output::line(format_args!("{:.1} % right in cross-validation", 100.0 * accuracy));
    }
}

/// A title with a count, and the first rows; nothing where nothing was found.
fn section<I: Iterator<Item = Vec<String>>>(
    title: &str,
    count: usize,
    header: &[&str],
    rows: impl FnOnce() -> I,
) {
    if count == 0 {
        return;
    }
    output::line(format_args!("\n{title}: {count}"));
    let mut table = output::table(header);
    rows().take(SHOWN).for_each(|row| {
        table.add_row(row);
    });
    output::print_table(&table);
    if count > SHOWN {
        output::line(format_args!("and {} more (--json has all)", count - SHOWN));
    }
}

fn reason(reason: PoorImageReason) -> &'static str {
    match reason {
        PoorImageReason::Unspecified => "not known",
        PoorImageReason::Tiny => "tiny",
        PoorImageReason::Blurred => "blurred",
        PoorImageReason::OneColour => "one colour",
    }
}

fn object(report: &GetDatasetReportResponse, dataset: &str) -> Value {
    let labels = report.dataset.iter().flat_map(|dataset| &dataset.labels);
    json!({
        "dataset": dataset,
        "counts": labels
            .map(|label| (label.label.clone(), (label.train_count + label.held_out_count).into()))
            .collect::<serde_json::Map<String, Value>>(),
        "imbalance": report.imbalance,
        "accuracy": report.accuracy,
        "few_samples": report.small_classes,
        "duplicates": report.duplicates.iter().map(|group| json!({
            "samples": group.ids,
            "similarity": group.similarity,
            "across_classes": group.across_classes,
        })).collect::<Vec<_>>(),
        "likely_wrong_labels": report.suspicions.iter().map(|found| json!({
            "sample": found.id,
            "label": found.label,
            "likely": found.suggested_label,
            "label_probability": found.label_probability,
        })).collect::<Vec<_>>(),
        "poor_photographs": report.poor_images.iter().map(|found| json!({
            "sample": found.id,
            "flaw": reason(found.reason()),
        })).collect::<Vec<_>>(),
        "most_confused": report.confusions.iter().map(|found| json!({
            "label": found.label,
            "called": found.predicted_label,
            "samples": found.count,
        })).collect::<Vec<_>>(),
        "advice": report.advice,
    })
}
