//! What the demo prints.

use std::fmt::Display;

use indicatif::{ProgressBar, ProgressStyle};

use crate::client::messages::Evaluation;
use crate::terminal::confusion_matrix;
use crate::terminal::print;

/// Begins a step.
pub(super) fn step(number: usize, title: &str) {
    print::line(format_args!("\n{number}. {title}"));
}

/// A line of a step.
pub(super) fn line(text: impl Display) {
    print::line(format_args!("   {text}"));
}

/// The call that does the same from a shell. `body` is JSON; `{file:NAME}` in it stands for the
/// Base64 of a file.
pub(super) fn call(address: &str, method: &str, body: &str) {
    print::line(format_args!("   $ {}", grpcurl(address, method, body)));
}

fn grpcurl(address: &str, method: &str, body: &str) -> String {
    // In single quotes, except that the shell has to run base64 on a file.
    let body = match body.split_once("{file:") {
        Some((before, rest)) => {
            let (file, after) = rest.split_once('}').unwrap_or((rest, ""));
            format!("'{before}'\"$(base64 -w0 '{file}')\"'{after}'")
        }
        None => format!("'{body}'"),
    };
    format!("grpcurl -plaintext -d {body} {address} graft.v1.{method}")
}

/// How a head does: accuracy with its interval, and the confusion matrix.
pub(super) fn evaluation(evaluation: &Evaluation) {
    line(format_args!(
        "accuracy on {} held-out drawings: {:.1} % (95 % interval {:.1} to {:.1})",
        evaluation.sample_count,
        100.0 * evaluation.accuracy,
        100.0 * evaluation.accuracy_low,
        100.0 * evaluation.accuracy_high,
    ));
    let labels: Vec<String> = evaluation.classes.iter().map(|class| class.label.clone()).collect();
    let counts = evaluation.confusion_matrix.iter();
    let counts: Vec<u32> = counts.map(|&count| u32::try_from(count).unwrap_or(u32::MAX)).collect();
    let rows: Vec<Vec<u32>> = counts.chunks(labels.len().max(1)).map(<[u32]>::to_vec).collect();
    matrix(&labels, &rows);
}

/// Prints a confusion matrix.
pub(super) fn matrix(labels: &[String], rows: &[Vec<u32>]) {
    for text in confusion_matrix(labels, rows).lines() {
        line(text);
    }
}

/// A bar for `length` pieces of work, on standard error; nothing where that is no terminal.
pub(super) fn bar(length: u64, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("   {msg} [{bar:40}] {pos}/{len} {eta}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style.progress_chars("=> ")).with_message(what)
}

/// Tells that the daemon goes on.
pub(super) fn kept(address: &str) {
    print::line(format_args!(
        "\nThe daemon listens on {address} until Ctrl-C: try the calls above, or"
    ));
    print::line(format_args!("   graftctl --target {address} heads list"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_can_be_pasted_into_a_shell() {
        let plain = grpcurl("127.0.0.1:1", "HeadService/GetHead", r#"{"head":"parts"}"#);
        assert_eq!(
            plain,
            r#"grpcurl -plaintext -d '{"head":"parts"}' 127.0.0.1:1 graft.v1.HeadService/GetHead"#
        );
        let with_file = grpcurl("h:1", "S/M", r#"{"image":{"encoded":"{file:a/duck.jpg}"}}"#);
        assert_eq!(
            with_file,
            r#"grpcurl -plaintext -d '{"image":{"encoded":"'"$(base64 -w0 'a/duck.jpg')"'"}}' h:1 graft.v1.S/M"#
        );
    }
}
