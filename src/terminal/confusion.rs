//! A confusion matrix that can be read in a terminal.

/// Longest label that is shown in full.
const LABEL_WIDTH: usize = 16;

/// `counts[truth][prediction]` as text: a row a class, its share right at the end, columns by number.
pub fn confusion_matrix(labels: &[String], counts: &[Vec<u32>]) -> String {
    let shown: Vec<String> = labels.iter().map(|label| shorten(label)).collect();
    let label_width = shown.iter().map(|label| label.chars().count()).max().unwrap_or(0);
    let largest = counts.iter().flatten().copied().max().unwrap_or(0);
    let width = largest.to_string().len().max(labels.len().to_string().len() + 1) + 1;
    let mut text = format!("{:>label_width$}      ", "truth");
    for column in 1..=labels.len() {
        text.push_str(&format!("{:>width$}", format!("#{column}")));
    }
    text.push_str("   right\n");
    for (row, (label, counts)) in shown.iter().zip(counts).enumerate() {
        text.push_str(&format!("{label:>label_width$} {:>4} ", format!("#{}", row + 1)));
        for (column, &count) in counts.iter().enumerate() {
            // Zeros are dots, so that mistakes stand out.
            let cell = match count {
                0 if column != row => "·".to_owned(),
                count => count.to_string(),
            };
            text.push_str(&format!("{cell:>width$}"));
        }
        let total: u32 = counts.iter().sum();
        let right = counts.get(row).copied().unwrap_or(0);
        if total > 0 {
            let share = 100.0 * f64::from(right) / f64::from(total);
            text.push_str(&format!("  {share:5.1} %"));
        }
        text.push('\n');
    }
    text
}

fn shorten(label: &str) -> String {
    if label.chars().count() <= LABEL_WIDTH {
        return label.to_owned();
    }
    label.chars().take(LABEL_WIDTH - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_as_wide_and_mistakes_stand_out() {
        let labels = ["ants", "bees and wasps and hornets"].map(String::from);
        let text = confusion_matrix(&labels, &[vec![190, 2], vec![0, 200]]);
        assert_eq!(text.lines().count(), 3);
        assert!(
            text.contains("190   2") && text.contains("·") && text.contains("99.0 %"),
            "{text}"
        );
        let widths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert_eq!(widths[1], widths[2], "{text}");
    }
}
