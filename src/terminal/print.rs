//! All that the two programs print.
//!
//! A reader may go away before the end, as `head` does. Then nobody wants the rest: the program ends
//! at once and without a word, with the status that a shell reports for one that SIGPIPE ended.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

/// 128 and the number of SIGPIPE.
const READER_GONE: i32 = 141;

/// Prints a compact JSON object on a line of its own.
pub fn json(object: &Value) {
    line(compact(object));
}

/// Prints a line.
pub fn line(text: impl Display) {
    write(io::stdout().lock(), format_args!("{text}\n"));
}

/// Prints text that ends its lines itself.
pub fn text(text: impl Display) {
    write(io::stdout().lock(), format_args!("{text}"));
}

/// Prints a line on standard error, for people.
pub fn error(text: impl Display) {
    write(io::stderr().lock(), format_args!("{text}\n"));
}

/// Prints the completion script of a program for a shell.
pub fn completions(shell: clap_complete::Shell, program: &mut clap::Command) {
    let name = program.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, program, name, &mut script);
    text(String::from_utf8_lossy(&script));
}

fn write(mut output: impl Write, text: std::fmt::Arguments<'_>) {
    match output.write_fmt(text).and_then(|()| output.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(READER_GONE),
        // A full disk, say, under a redirected output: there is nowhere left to say so.
        Err(_) => std::process::exit(1),
        Ok(()) => {}
    }
}

/// An object as compact JSON.
pub fn compact(object: &Value) -> String {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, ShortNumbers);
    // Writing to memory does not fail, and the formatter writes UTF-8.
    let _ = object.serialize(&mut serializer);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Prints a number that is exactly an f32 with the digits that an f32 needs: 0.2 and not
/// 0.20000000298023224. [`Value`] keeps all numbers as f64 and does not know which of them was one.
struct ShortNumbers;

impl Formatter for ShortNumbers {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        let single = value as f32;
        if f64::from(single) == value {
            CompactFormatter.write_f32(writer, single)
        } else {
            CompactFormatter.write_f64(writer, value)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn single_precision_is_printed_with_as_few_digits_as_it_has() {
        let object = json!({ "a": 0.2_f32, "b": [1.0_f32, -1e-7_f32], "c": 0.1_f64, "d": 7 });
        assert_eq!(compact(&object), r#"{"a":0.2,"b":[1.0,-1e-7],"c":0.1,"d":7}"#);
    }

    proptest! {
        #[test]
        fn every_number_reads_back_as_it_was(single: f32, double: f64) {
            prop_assume!(single.is_finite() && double.is_finite());
            let text = compact(&json!([single, double]));
            let (first, second) = text[1..text.len() - 1].split_once(',').unwrap();
            prop_assert_eq!(first.parse::<f32>().unwrap(), single);
            prop_assert_eq!(second.parse::<f64>().unwrap(), double);
        }
    }
}
