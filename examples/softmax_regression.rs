//! Fits softmax regression on raw files, for the comparison with scikit-learn
//! (`tests/reference/softmax_speed.py`): how fast the objective falls, and what memory it takes.
//!
//! `softmax_regression EMBEDDINGS.f16 LABELS.u32 CLASSES INVERSE_PENALTY ENOUGH`: it ends at the first
//! iteration whose objective is at most `ENOUGH`.

use std::error::Error;
use std::io::Write as _;
use std::time::Instant;

use graftd::base::cancel::Cancel;
use graftd::heads::Transform;
use graftd::train::logistic::{LogisticOptions, fit_softmax};
use graftd::train::{HalfRows, Samples, Stop, TrainError};
use half::f16;

/// A line of `/proc/self/status` in bytes.
fn memory(field: &str) -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(field)).ok_or("no such field")?;
    let kibibytes: u64 = line.split_whitespace().nth(1).ok_or("no number")?.parse()?;
    Ok(1024 * kibibytes)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [x, y, classes, inverse_penalty, enough] = arguments.as_slice() else {
        return Err("EMBEDDINGS.f16 LABELS.u32 CLASSES INVERSE_PENALTY ENOUGH".into());
    };
    let enough: f64 = enough.parse()?;
    let labels: Vec<u32> = std::fs::read(y)?
        .as_chunks()
        .0
        .iter()
        .map(|word: &[u8; 4]| u32::from_le_bytes(*word))
        .collect();
    let values: Vec<f16> = std::fs::read(x)?
        .as_chunks()
        .0
        .iter()
        .map(|half: &[u8; 2]| f16::from_le_bytes(*half))
        .collect();
    let rows = HalfRows::new(&values, values.len() / labels.len().max(1)).ok_or("no rows")?;
    let classes = (0..classes.parse::<u32>()?).map(|class| class.to_string()).collect();
    let samples = Samples::new(&rows, labels, classes);
    let options = LogisticOptions {
        inverse_penalty: inverse_penalty.parse()?,
        label_smoothing: 0.0,
        stop: Stop { gradient: 1e-7, decrease: 1e-12, iterations: 20_000 },
    };
    // The files were read whole and are gone: only what is resident now counts as before, and the peak
    // is measured from here (proc_pid_clear_refs(5)).
    std::fs::OpenOptions::new().write(true).open("/proc/self/clear_refs")?.write_all(b"5")?;
    let before = memory("VmRSS")?;
    let (mut reached, mut iterations) = (f64::INFINITY, 0);
    let began = Instant::now();
    let (cancel, none) = (Cancel::default(), Transform::default());
    let fitted = fit_softmax(&samples, &none, &options, &cancel, &mut |iteration, objective| {
        (iterations, reached) = (iteration, objective);
        if objective <= enough {
            cancel.cancel();
        }
    });
    let seconds = began.elapsed().as_secs_f64();
    match fitted {
        Ok(_) | Err(TrainError::Cancelled(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let result = serde_json::json!({
        "objective": reached,
        "iterations": iterations,
        "seconds": seconds,
        "memory": memory("VmHWM")?.saturating_sub(before),
    });
    println!("{result}");
    Ok(())
}
