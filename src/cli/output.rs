//! What the commands print of an answer.

use std::path::Path;

use serde_json::{Value, json};

use crate::client::{ClientError, ErrorKind};
use crate::engine::{Answer, Prediction, Timings};
use crate::terminal::{self, print};

/// An error, as the command contract has it.
pub(crate) fn error(error: &ClientError) -> Value {
    json!({ "code": error.kind.code_name(), "message": terminal::of_picture(error) })
}

/// Prints an image that failed: in its place among the objects, or on standard error for people.
pub(crate) fn print_failure(image: &Path, failed: &ClientError, json: bool) {
    if json {
        print::json(&json!({ "image": image.to_string_lossy(), "error": error(failed) }));
    } else {
        print::error(format_args!("{}: {}", image.display(), terminal::of_picture(failed)));
    }
}

/// A file that cannot be read.
pub(crate) fn unreadable(image: &Path, error: &std::io::Error) -> ClientError {
    match terminal::explained(image, error) {
        Some(text) => ClientError::local(ErrorKind::NotFound, text),
        None => ClientError::local(ErrorKind::Unavailable, error.to_string()),
    }
}

/// The predictions of an answer, as the command contract has them.
pub(crate) fn predictions(predictions: &[Prediction]) -> Value {
    let object = |prediction: &Prediction| {
        let Prediction { index, id, label, probability, logit } = prediction;
        json!({ "index": index, "id": id, "label": label, "probability": probability, "logit": logit })
    };
    predictions.iter().map(object).collect()
}

/// The stages' times in milliseconds.
pub(crate) fn timings(timings: &Timings) -> Value {
    let ms = |duration: std::time::Duration| terminal::milliseconds(duration.as_secs_f64() * 1e3);
    let Timings { decode, preprocess, queue, inference, head } = *timings;
    json!({
        "decode": ms(decode),
        "preprocess": ms(preprocess),
        "queue": ms(queue),
        "inference": ms(inference),
        "head": ms(head),
    })
}

/// One line for a person: the image, then the classes.
pub(crate) fn line(image: &Path, answer: &Answer, top_k: usize) -> String {
    let class = |prediction: &Prediction| {
        let name = match prediction.label.as_str() {
            "" => format!("class {}", prediction.index),
            label => label.to_owned(),
        };
        format!("{:5.1} %  {name}", f64::from(prediction.probability) * 100.0)
    };
    let classes: Vec<String> = answer.top(top_k).iter().map(class).collect();
    format!("{}\n  {}", image.display(), classes.join("\n  "))
}
