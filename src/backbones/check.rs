//! The trial of a model that nobody here has run before: loaded and run once in a child process with
//! bounded memory and time, so that a hostile or broken file takes down the child and nothing else.
//!
//! The child is the program itself with the hidden command `check-model`. It limits itself before it
//! reads the file; the parent adds a limit of wall-clock time.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::{BackboneError, Labels, TensorNames};
use crate::base::host::Host;
use crate::graph::{GraphError, Network, Options, Source};
use crate::vision::{Preprocessing, TensorLayout};

/// The child gets so much address space even where the machine has less to spare: the program itself
/// and its threads take a part of it without touching the memory.
const LEAST_MEMORY_BYTES: u64 = 256 << 20;

/// The most that is read of what a child says.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

/// Holds trials.
#[derive(Clone, Debug)]
pub struct Checker {
    /// The program `graftd`.
    pub program: PathBuf,
    /// Address space that the child may use beside ten times the size of the file, as far as three
    /// quarters of the available memory allow. Default 1 GiB.
    pub memory_bytes: u64,
    /// Processor time that the child may use. Default 120 s.
    pub cpu_seconds: u64,
    /// Time after which the child is killed. Default 10 minutes, for a busy machine.
    pub patience: Duration,
}

/// What a trial has found out about a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Name of the image input.
    pub input: String,
    /// Order of its axes.
    pub layout: TensorLayout,
    /// Side of its square in pixels.
    pub size: u32,
    /// 3 or 1.
    pub channels: usize,
    /// Number of classes; none for a feature extractor.
    pub classes: Option<usize>,
    /// Width of the embedding.
    pub embedding_width: usize,
    /// Number of layers.
    pub layers: usize,
    /// How many of them are waists.
    pub waists: usize,
}

/// What the child says on its standard output, as one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Accepted(CheckReport),
    Refused(Refusal),
}

/// Why the child refuses a model. What callers tell apart has a kind of its own.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Refusal {
    UnsupportedOperator { operator: String, node: String },
    Other(String),
}

impl Checker {
    /// A checker that runs `program`, usually the running program itself.
    pub fn new(program: PathBuf) -> Self {
        Self { program, memory_bytes: 1 << 30, cpu_seconds: 120, patience: Duration::from_mins(10) }
    }

    /// Tries the model at `path`.
    ///
    /// # Errors
    /// [`GraphError::UnsupportedOperator`]; else [`BackboneError::Refused`] with the reason, whatever
    /// the child died of.
    pub fn check(&self, path: &Path, options: &Options) -> Result<CheckReport, BackboneError> {
        let trial = |reason: String| BackboneError::Trial(reason);
        let size = std::fs::metadata(path).map_err(BackboneError::io(path))?.len();
        let memory = self.allowance(size, Host::default().memory().available);
        let mut command = Command::new(&self.program);
        command
            .arg("check-model")
            .arg(path)
            .arg("--memory-bytes")
            .arg(memory.to_string())
            .arg("--cpu-seconds")
            .arg(self.cpu_seconds.to_string())
            .arg("--tensors")
            .arg(tensors_json(options).map_err(trial)?)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if let Some(size) = options.size {
            command.arg("--size").arg(size.to_string());
        }
        let child = command
            .spawn()
            .map_err(|error| trial(format!("{}: {error}", self.program.display())))?;
        self.judge(child, memory)
    }

    /// Address space for a model of `size` bytes: no more than the machine can spare, so that the
    /// child fails before the machine does. `available` is 0 where that is not told.
    fn allowance(&self, size: u64, available: u64) -> u64 {
        let wanted = self.memory_bytes.saturating_add(size.saturating_mul(10));
        match available {
            0 => wanted,
            available => wanted.min((available / 4 * 3).max(LEAST_MEMORY_BYTES)),
        }
    }

    fn judge(&self, mut child: Child, memory: u64) -> Result<CheckReport, BackboneError> {
        let (sender, answer) = mpsc::channel();
        let stdout = child.stdout.take();
        // The child's end of the pipe closes when it ends, however it ends.
        let reader = std::thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(stdout) = stdout {
                let _ = stdout.take(MAX_ANSWER_BYTES).read_to_end(&mut text);
            }
            let _ = sender.send(text);
        });
        let answer = answer.recv_timeout(self.patience);
        // One that has ended cannot be killed; one that talks too much or only closed its output can.
        let _ = child.kill();
        let status = child.wait().map_err(|error| BackboneError::Trial(error.to_string()))?;
        let _ = reader.join();
        let Ok(answer) = answer else {
            let patience = self.patience.as_secs();
            return Err(BackboneError::Refused(format!("it did not finish within {patience} s")));
        };
        match serde_json::from_slice(&answer) {
            Ok(Verdict::Accepted(report)) => Ok(report),
            Ok(Verdict::Refused(refusal)) => Err(refusal.into()),
            Err(_) => Err(BackboneError::Refused(format!(
                "it ended the process that ran it ({status}); it may have needed more than {} MB \
                 of memory or {} s of processor time",
                memory >> 20,
                self.cpu_seconds,
            ))),
        }
    }
}

impl From<GraphError> for Refusal {
    fn from(error: GraphError) -> Self {
        #[allow(clippy::wildcard_enum_match_arm)] // for a new network all else is one kind
        match error {
            GraphError::UnsupportedOperator { operator, node } => {
                Self::UnsupportedOperator { operator, node }
            }
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<Refusal> for BackboneError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::UnsupportedOperator { operator, node } => {
                GraphError::UnsupportedOperator { operator, node }.into()
            }
            Refusal::Other(reason) => Self::Refused(reason),
        }
    }
}

impl CheckReport {
    /// What there is to say about a loaded network.
    pub fn of(network: &Network) -> Self {
        let input = network.input();
        Self {
            input: input.name.clone(),
            layout: input.layout,
            size: u32::try_from(input.size).unwrap_or(u32::MAX),
            channels: input.channels,
            classes: network.classifier().map(|classifier| classifier.classes),
            embedding_width: network.embedding().width,
            layers: network.layers().len(),
            waists: network.layers().iter().filter(|layer| layer.waist).count(),
        }
    }

    /// Whether photographs that are prepared so can be fed to the network.
    pub(super) fn check_fits(&self, preprocessing: &Preprocessing) -> Result<(), BackboneError> {
        let fault = |text: String| Err(BackboneError::Mismatch(text));
        if preprocessing.size != self.size {
            let (own, asked) = (self.size, preprocessing.size);
            return fault(format!("the network's input is {own} x {own}, but --size is {asked}"));
        }
        if preprocessing.channels.count() != self.channels {
            return fault(format!(
                "the network's input has {} channels, but --channels {} makes {}",
                self.channels,
                preprocessing.channels,
                preprocessing.channels.count()
            ));
        }
        Ok(())
    }

    /// Whether the labels are as many as the classes.
    pub(super) fn check_labels(&self, labels: &Labels) -> Result<(), BackboneError> {
        let classes = self.classes.unwrap_or(0);
        if labels.is_empty() || labels.len() == classes {
            return Ok(());
        }
        Err(BackboneError::Mismatch(format!(
            "there are {} labels, but the network has {classes} classes",
            labels.len()
        )))
    }
}

/// The child's part: limits this process, loads the network, runs it once, and returns the line to
/// print. `tensors` is what [`Checker`] passed.
///
/// # Errors
/// The line to print before ending with failure.
pub fn check_here(
    path: &Path,
    size: Option<u32>,
    tensors: &str,
    memory_bytes: u64,
    cpu_seconds: u64,
) -> Result<String, String> {
    step_back();
    let verdict = limit_this_process(memory_bytes, cpu_seconds)
        .and_then(|()| serde_json::from_str(tensors).map_err(|error| error.to_string()))
        .map_err(Refusal::Other)
        .and_then(|tensors: TensorNames| {
            let options = Options { size, overrides: tensors.overrides(), ..Options::default() };
            run_once(path, &options).map_err(Refusal::from)
        });
    let (line, accepted) = match verdict {
        Ok(report) => (Verdict::Accepted(report), true),
        Err(refusal) => (Verdict::Refused(refusal), false),
    };
    let line = serde_json::to_string(&line).map_err(|error| error.to_string())?;
    if accepted { Ok(line) } else { Err(line) }
}

fn run_once(path: &Path, options: &Options) -> Result<CheckReport, GraphError> {
    let network = Network::load(Source::File(path.to_owned()), options)?;
    let length = network.plan().input_len();
    // Values as a normalised photograph has them: neither constant nor symmetric.
    let input: Vec<f32> = (0..length).map(|i| (i % 251) as f32 / 125.0 - 0.9).collect();
    network.run(&input)?;
    Ok(CheckReport::of(&network))
}

fn limit_this_process(memory_bytes: u64, cpu_seconds: u64) -> Result<(), String> {
    let limit = |value: u64| Rlimit { current: Some(value), maximum: Some(value) };
    [(Resource::As, memory_bytes), (Resource::Cpu, cpu_seconds), (Resource::Core, 0)]
        .into_iter()
        .try_for_each(|(resource, value)| setrlimit(resource, limit(value)))
        .map_err(|error| format!("limits could not be set: {error}"))
}

/// Where memory or processor run short, this process loses them before the daemon does. A system that
/// refuses leaves the limits to do it alone.
fn step_back() {
    let adjust = std::fs::OpenOptions::new().write(true).open("/proc/self/oom_score_adj");
    let _ = adjust.and_then(|mut file| file.write_all(b"1000"));
    let _ = rustix::process::setpriority_process(None, 10);
}

fn tensors_json(options: &Options) -> Result<String, String> {
    let crate::graph::Overrides { input, logits, embedding, no_classifier, waists } =
        options.overrides.clone();
    serde_json::to_string(&TensorNames { input, logits, embedding, no_classifier, waists })
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell in the place of the child.
    fn shell(script: &str, patience: Duration) -> Result<CheckReport, BackboneError> {
        let checker = Checker { patience, ..Checker::new("sh".into()) };
        let child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        checker.judge(child, 1 << 30)
    }

    fn message(script: &str, patience: Duration) -> String {
        let error = shell(script, patience).unwrap_err();
        assert!(matches!(error, BackboneError::Refused(_)), "{error}");
        error.to_string()
    }

    #[test]
    fn a_child_that_hangs_is_killed_and_one_that_dies_is_a_refusal() {
        let long = Duration::from_mins(1);
        let begun = std::time::Instant::now();
        assert!(message("exec sleep 60", Duration::from_millis(200)).contains("did not finish"));
        assert!(begun.elapsed() < Duration::from_secs(30));
        assert!(message("kill -9 $$", long).contains("ended the process"));
        assert!(message("exit 0", long).contains("ended the process"));
        assert!(message("echo nonsense; exit 1", long).contains("ended the process"));
        let refusal = r#"echo '{"refused":{"other":"no input"}}'; exit 1"#;
        assert!(message(refusal, long).contains("no input"));
    }

    #[test]
    fn the_operator_that_a_child_does_not_know_arrives_as_such() {
        let error = GraphError::UnsupportedOperator { operator: "Warp".into(), node: "w7".into() };
        let line = serde_json::to_string(&Verdict::Refused(error.into())).unwrap();
        let script = format!("echo '{line}'; exit 1");
        let Err(BackboneError::Graph(GraphError::UnsupportedOperator { operator, node })) =
            shell(&script, Duration::from_mins(1))
        else {
            panic!("{line}")
        };
        assert_eq!((operator.as_str(), node.as_str()), ("Warp", "w7"));
    }

    #[test]
    fn a_trial_gets_what_the_file_needs_but_not_more_than_the_machine_can_spare() {
        let checker = Checker::new("sh".into());
        const GIB: u64 = 1 << 30;
        assert_eq!(checker.allowance(100 << 20, 64 * GIB), GIB + (1000 << 20));
        assert_eq!(checker.allowance(100 << 20, 0), GIB + (1000 << 20));
        assert_eq!(checker.allowance(100 << 20, GIB), GIB / 4 * 3);
        assert_eq!(checker.allowance(u64::MAX, GIB), GIB / 4 * 3);
        assert_eq!(checker.allowance(1, 10 << 20), LEAST_MEMORY_BYTES);
    }

    #[test]
    fn a_child_that_talks_without_end_is_not_listened_to_without_end() {
        let patience = Duration::from_mins(1);
        assert!(message("exec yes", patience).contains("ended the process"));
    }

    #[test]
    fn preprocessing_and_labels_must_fit_the_network() {
        let report = CheckReport {
            input: "x".to_owned(),
            layout: TensorLayout::Nchw,
            size: 96,
            channels: 3,
            classes: Some(2),
            embedding_width: 4,
            layers: 1,
            waists: 1,
        };
        let unit = |size| Preprocessing::preset(crate::vision::Preset::Unit, size);
        report.check_fits(&unit(96)).unwrap();
        assert!(report.check_fits(&unit(224)).unwrap_err().to_string().contains("96 x 96"));
        let gray = Preprocessing { channels: crate::vision::ChannelOrder::Gray, ..unit(96) };
        assert!(report.check_fits(&gray).is_err());
        report.check_labels(&Labels::parse("ant\nbee\n")).unwrap();
        report.check_labels(&Labels::default()).unwrap();
        let message = report.check_labels(&Labels::parse("ant\n")).unwrap_err().to_string();
        assert!(message.contains("1 labels") && message.contains("2 classes"));
    }
}
