//! How a head does, class by class, as text for a person.

use super::confusion_matrix;

/// The scores of a class, 0 to 1 each.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassLine {
    /// The class.
    pub label: String,
    /// Samples of it.
    pub samples: u64,
    /// Of those called so, the share that are.
    pub precision: f64,
    /// Of those that are, the share called so.
    pub recall: f64,
    /// Harmonic mean of the two.
    pub f1: f64,
}

/// The scores of all classes as a table, and below it, unless `confusion` is empty, which class is
/// taken for which: `confusion[truth][prediction]` counts samples.
pub fn scores_text(classes: &[ClassLine], confusion: &[Vec<u32>]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["class", "samples", "precision", "recall", "F1"]);
    for class in classes {
        table.add_row([
            class.label.clone(),
            class.samples.to_string(),
            format!("{:.3}", class.precision),
            format!("{:.3}", class.recall),
            format!("{:.3}", class.f1),
        ]);
    }
    if confusion.is_empty() {
        return table.to_string();
    }
    let labels: Vec<String> = classes.iter().map(|class| class.label.clone()).collect();
    let matrix = confusion_matrix(&labels, confusion);
    format!("{table}\n\nrows: what it is; columns: what it is taken for\n{matrix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_says_which_way_it_is_read_and_none_is_shown_where_there_is_none() {
        let class = |label: &str| ClassLine {
            label: label.to_owned(),
            samples: 2,
            precision: 0.5,
            recall: 1.0,
            f1: 2.0 / 3.0,
        };
        let classes = [class("ant"), class("bee")];
        let text = scores_text(&classes, &[vec![2, 0], vec![1, 1]]);
        assert!(text.contains("F1") && text.contains("0.667"), "{text}");
        assert!(text.contains("rows: what it is; columns: what it is taken for"), "{text}");
        assert!(!scores_text(&classes, &[]).contains("rows"));
    }
}
