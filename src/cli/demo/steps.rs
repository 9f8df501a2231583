//! The steps, each a conversation with the daemon over gRPC.

use std::path::{Path, PathBuf};
use std::time::Instant;

use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::super::CliError;
use super::device::Device;
use super::drawing::SIDE;
use super::lessons::{CLASSES, Lesson, Purpose, draw_all, duck};
use super::report;
use super::sheet::{Pair, Verdict, contact_sheet};
use crate::base::atomic;
use crate::client::messages::new_sample::Content;
use crate::client::messages::{
    ExplainOptions, ExplainRequest, Explanation, Job, JobState, NewSample, OverlayFormat,
    OverlayOptions, PredictRequest, PredictResponse, StartTrainingRequest, StreamSamplesRequest,
    TrainingOptions,
};
use crate::client::{Client, ErrorKind, Picture as Photograph};
use crate::terminal::print;
use crate::vision::{ImageFormat, Limits, VisionError, decode, encode};

/// Name of the dataset and of the head.
const NAME: &str = "parts";
/// Fresh drawings a class.
const FRESH: usize = 10;
/// Fresh drawings that are explained: damaged ones, then sound ones and what nobody taught.
const EXPLAINED: usize = 16;
/// Drawings of what nobody taught.
const DUCKS: usize = 5;

/// The demo from its first step to its last.
#[derive(Debug)]
pub(super) struct Story<'a> {
    client: &'a Client,
    address: &'a str,
    out: PathBuf,
    seed: u64,
    /// Drawings a class for the first version.
    samples: usize,
}

/// A fresh drawing and what the head said of it.
struct Answered {
    lesson: Lesson,
    answer: PredictResponse,
}

impl Answered {
    fn label(&self) -> &str {
        self.answer.predictions.first().map_or("", |best| best.label.as_str())
    }

    fn unknown(&self) -> bool {
        self.answer.novelty.is_some_and(|novelty| novelty.unknown)
    }

    fn verdict(&self) -> Verdict {
        if self.unknown() {
            Verdict::Unknown
        } else if self.label() == self.lesson.label {
            Verdict::Right
        } else {
            Verdict::Wrong
        }
    }

    /// What is on the drawing and what the head said, for a person.
    fn caption(&self) -> String {
        let truth = self.lesson.label;
        if self.unknown() {
            return format!("drawn: {truth}  answer: unknown");
        }
        let sure = self.answer.predictions.first().map_or(0.0, |best| 100.0 * best.probability);
        format!("drawn: {truth}  answer: {} {sure:.0} %", self.label())
    }
}

impl<'a> Story<'a> {
    /// A story told by `device`, its pictures below `out`.
    pub(super) fn new(device: &'a Device, out: &Path, seed: u64, samples: u32) -> Self {
        let (client, address) = (device.client(), device.address());
        Self { client, address, out: out.to_owned(), seed, samples: samples as usize }
    }

    /// Goes through all steps.
    pub(super) async fn tell(&self) -> Result<(), CliError> {
        let began = Instant::now();
        std::fs::create_dir_all(&self.out).map_err(|error| unwritable(&self.out, &error))?;
        print::line(format_args!(
            "graftd {} listens on {}",
            env!("CARGO_PKG_VERSION"),
            self.address
        ));
        print::line("It has one backbone, its own, and has learnt nothing yet.");
        let first = self.samples * CLASSES.len();

        report::step(1, "Stream labelled photographs in");
        self.stream(0..first).await?;

        report::step(2, "Learn them on the device");
        self.train().await?;

        report::step(3, "Twice the photographs, a second version, swapped in if it is better");
        self.stream(first..2 * first).await?;
        self.train().await?;

        report::step(4, "Ask about drawings that it has never seen");
        let fresh = self.predict_fresh().await?;

        report::step(5, "Show it something that nobody taught");
        let ducks = self.predict_ducks().await?;

        report::step(6, "Ask where it looked");
        self.explain(&fresh, &ducks).await?;

        report::step(7, "Go back a version, and forward again");
        self.swap(&fresh).await?;

        print::line(format_args!("\nDone in {:.0} s.", began.elapsed().as_secs_f64()));
        Ok(())
    }

    async fn stream(&self, numbers: std::ops::Range<usize>) -> Result<(), CliError> {
        let (began, count) = (Instant::now(), numbers.len());
        let mut drawn = draw_all(Purpose::Learning, self.seed, numbers);
        let Some(first) = drawn.recv().await else { return Ok(()) };
        let first = first.map_err(undrawable)?;
        let example = self.write("sample.jpg", &first.file)?;
        let example_label = first.label;
        let rest = ReceiverStream::new(drawn);
        // A drawing that failed ends the stream; the count at the end tells.
        let lessons = tokio_stream::once(Ok(first)).chain(rest).map_while(Result::ok);
        let requests = lessons.map(|lesson| StreamSamplesRequest {
            correlation_id: lesson.id.clone(),
            sample: Some(sample(lesson)),
        });
        let mut answers = self.client.stream_samples(requests).await?;
        let bar = report::bar(count as u64, "stored");
        let mut stored = 0;
        while let Some((id, result)) = answers.next().await? {
            result.map_err(|error| CliError::Other(format!("{id} was refused: {error}")))?;
            stored += 1;
            bar.inc(1);
        }
        bar.finish_and_clear();
        if stored != count {
            return Err(CliError::Other(format!("only {stored} of {count} drawings were stored")));
        }
        report::line(format_args!(
            "drew and stored {stored} photographs of {} in {:.1} s; each acknowledged one is durable",
            CLASSES.join(", "),
            began.elapsed().as_secs_f64(),
        ));
        let body = format!(
            r#"{{"sample":{{"dataset":"{NAME}","labels":["{example_label}"],"image":{{"encoded":"{{file:{}}}"}}}}}}"#,
            example.display()
        );
        report::call(self.address, "SampleService/StreamSamples", &body);
        Ok(())
    }

    async fn train(&self) -> Result<(), CliError> {
        let began = Instant::now();
        let options = TrainingOptions { seed: self.seed, ..TrainingOptions::default() };
        let request = StartTrainingRequest {
            head: NAME.to_owned(),
            dataset: NAME.to_owned(),
            options: Some(options),
            ..StartTrainingRequest::default()
        };
        let job = self.client.start_training(request).await?.unwrap_or_default();
        let job = self.watch(&job.id).await?;
        let report = job.report.unwrap_or_default();
        report::line(format_args!(
            "version {} learnt from {} drawings in {:.1} s",
            job.head_version,
            report.train_count,
            began.elapsed().as_secs_f64(),
        ));
        if !report.kind_message.is_empty() {
            report::line(format_args!("kind of head: {}", report.kind_message));
        }
        if let Some(held_out) = &report.held_out {
            report::evaluation(held_out);
        }
        if let Some(live) = &report.live {
            report::line(format_args!(
                "the live version on the same drawings: {:.1} %",
                100.0 * live.accuracy
            ));
        }
        let promoted = if job.promoted { "is live" } else { "waits" };
        report::line(format_args!(
            "version {} {promoted}: {}",
            job.head_version, job.promotion_message
        ));
        let body = format!(r#"{{"head":"{NAME}","dataset":"{NAME}"}}"#);
        report::call(self.address, "TrainingService/StartTraining", &body);
        Ok(())
    }

    /// Watches a job to its end.
    async fn watch(&self, id: &str) -> Result<Job, CliError> {
        let bar = report::bar(100, "learning");
        let mut news = self.client.watch_job(id).await?;
        let mut latest = Job::default();
        while let Some(job) = news.next().await {
            latest = job?;
            bar.set_position((100.0 * latest.progress) as u64);
        }
        bar.finish_and_clear();
        if latest.state() == JobState::Succeeded {
            return Ok(latest);
        }
        let why = latest.failure.map_or_else(|| "it did not end well".into(), |f| f.message);
        Err(CliError::Other(format!("the training failed: {why}")))
    }

    async fn predict(&self, lesson: &Lesson) -> Result<PredictResponse, CliError> {
        let photograph = Photograph::from_bytes(lesson.file.clone());
        let request = PredictRequest { head: NAME.to_owned(), ..photograph.into() };
        Ok(self.client.predict(request).await?)
    }

    async fn predict_fresh(&self) -> Result<Vec<Answered>, CliError> {
        let count = FRESH * CLASSES.len();
        let mut drawn = draw_all(Purpose::Testing, self.seed, 0..count);
        let bar = report::bar(count as u64, "asked");
        let mut answered = Vec::with_capacity(count);
        while let Some(lesson) = drawn.recv().await {
            let lesson = lesson.map_err(undrawable)?;
            let answer = self.predict(&lesson).await?;
            answered.push(Answered { lesson, answer });
            bar.inc(1);
        }
        bar.finish_and_clear();
        let right = answered.iter().filter(|one| one.label() == one.lesson.label).count();
        let unknown = answered.iter().filter(|one| one.unknown()).count();
        let share = 100.0 * right as f64 / count as f64;
        report::line(format_args!("{right} of {count} right ({share:.1} %)"));
        report::line(format_args!("{unknown} of {count} came back as unknown, though taught"));
        let position = |label: &str| CLASSES.iter().position(|class| *class == label);
        let mut rows = vec![vec![0_u32; CLASSES.len()]; CLASSES.len()];
        for one in &answered {
            if let (Some(truth), Some(guess)) = (position(one.lesson.label), position(one.label()))
            {
                rows[truth][guess] += 1;
            }
        }
        report::matrix(&CLASSES.map(str::to_owned), &rows);
        if let Some(one) = answered.first() {
            let file = self.write("fresh.jpg", &one.lesson.file)?;
            self.show_call("InferenceService/Predict", &file);
        }
        Ok(answered)
    }

    async fn predict_ducks(&self) -> Result<Vec<Answered>, CliError> {
        let mut ducks = Vec::with_capacity(DUCKS);
        for number in 0..DUCKS {
            let lesson = duck(self.seed, number).map_err(undrawable)?;
            let one = Answered { answer: self.predict(&lesson).await?, lesson };
            if number == 0 {
                let novelty = one.answer.novelty.unwrap_or_default();
                let verdict = if one.unknown() { "unknown" } else { one.label() };
                report::line(format_args!(
                    "a rubber duck: {verdict} (novelty {:.2}, unknown above {:.2}; nearest class {})",
                    novelty.score,
                    novelty.threshold,
                    one.label(),
                ));
                let file = self.write("duck.jpg", &one.lesson.file)?;
                self.show_call("InferenceService/Predict", &file);
            }
            ducks.push(one);
        }
        let unknown = ducks.iter().filter(|duck| duck.unknown()).count();
        report::line(format_args!("{unknown} of {DUCKS} ducks came back as unknown"));
        Ok(ducks)
    }

    async fn explain(&self, fresh: &[Answered], ducks: &[Answered]) -> Result<(), CliError> {
        let damaged = |one: &&Answered| one.lesson.damage.is_some();
        let sound = fresh.iter().filter(|one| !damaged(one)).take(EXPLAINED / 2 - 1);
        let chosen: Vec<&Answered> = fresh
            .iter()
            .filter(damaged)
            .take(EXPLAINED / 2)
            .chain(sound)
            .chain(ducks.first())
            .collect();
        let (mut pairs, mut hits, mut judged) = (Vec::new(), 0, 0);
        for one in chosen {
            let explanation = match self.explain_one(&one.lesson).await? {
                Ok(explanation) => explanation,
                Err(why) => {
                    report::line(format_args!("this daemon cannot explain yet: {why}"));
                    return Ok(());
                }
            };
            if let (Some(damage), Some(peak)) = (&one.lesson.damage, explanation.peak) {
                judged += 1;
                hits += usize::from(damage.holds(peak.x, peak.y));
            }
            if let Some(damage) = one.lesson.id.strip_prefix("damaged-") {
                self.write(&format!("damaged-{damage}.png"), &explanation.overlay)?;
            }
            let overlay = decode(&explanation.overlay, &Limits::default()).map_err(undrawable)?;
            let photograph = one.lesson.picture.clone();
            let (verdict, caption) = (one.verdict(), one.caption());
            pairs.push(Pair { photograph, overlay, verdict, caption });
        }
        report::line(format_args!(
            "Grad-CAM's hottest point lies on the damage in {hits} of {judged} damaged parts"
        ));
        let sheet = contact_sheet(&pairs, SIDE);
        let sheet = encode(&sheet, ImageFormat::Png).map_err(undrawable)?;
        let path = self.write("contact-sheet.png", &sheet)?;
        report::line(format_args!(
            "see {} (green frame: right, red: wrong, blue: unknown)",
            path.display()
        ));
        if let Some(one) = fresh.iter().find(damaged) {
            let file = self.write("damaged.jpg", &one.lesson.file)?;
            self.show_call("ExplanationService/Explain", &file);
        }
        Ok(())
    }

    /// The map of the lesson's own class, or of the most probable one for what nobody taught; the
    /// reason where the daemon is not able to.
    async fn explain_one(&self, lesson: &Lesson) -> Result<Result<Explanation, String>, CliError> {
        let overlay = OverlayOptions {
            format: OverlayFormat::Png.into(),
            strength: Some(0.5),
            ..OverlayOptions::default()
        };
        let taught = CLASSES.contains(&lesson.label);
        let options = ExplainOptions {
            class: if taught { format!("label:{}", lesson.label) } else { String::new() },
            overlay: Some(overlay),
            ..ExplainOptions::default()
        };
        let photograph = Photograph::from_bytes(lesson.file.clone());
        let request =
            ExplainRequest { head: NAME.to_owned(), options: Some(options), ..photograph.into() };
        match self.client.explain(request).await {
            Ok(answer) => Ok(Ok(answer.explanation.unwrap_or_default())),
            Err(error) if error.kind == ErrorKind::Unimplemented => Ok(Err(error.message)),
            Err(error) => Err(error.into()),
        }
    }

    async fn swap(&self, fresh: &[Answered]) -> Result<(), CliError> {
        let Some(one) = fresh.first() else { return Ok(()) };
        let head = self.client.get_head(NAME).await?.unwrap_or_default();
        let body = format!(r#"{{"head":"{NAME}"}}"#);
        if head.active_version < 2 {
            report::line("version 2 was not better and is not live: it is activated by hand");
            self.client.activate_head_version(&format!("{NAME}@2")).await?;
        }
        self.client.rollback_head(NAME).await?;
        report::line(format_args!("rolled back: {}", self.who_answers(&one.lesson).await?));
        report::call(self.address, "HeadService/RollbackHead", &body);
        self.client.activate_head_version(&format!("{NAME}@2")).await?;
        report::line(format_args!("activated {NAME}@2: {}", self.who_answers(&one.lesson).await?));
        let body = format!(r#"{{"head":"{NAME}@2"}}"#);
        report::call(self.address, "HeadService/ActivateHeadVersion", &body);
        Ok(())
    }

    async fn who_answers(&self, lesson: &Lesson) -> Result<String, CliError> {
        let answer = self.predict(lesson).await?;
        let version = answer.head.as_ref().map_or(0, |head| head.version);
        let (label, sure) = answer
            .predictions
            .first()
            .map_or(("nothing", 0.0), |best| (best.label.as_str(), 100.0 * best.probability));
        Ok(format!("a {} is answered by version {version}: {label}, {sure:.0} %", lesson.label))
    }

    fn show_call(&self, method: &str, file: &Path) {
        let file = file.display();
        let body = format!(r#"{{"head":"{NAME}","image":{{"encoded":"{{file:{file}}}"}}}}"#);
        report::call(self.address, method, &body);
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, CliError> {
        let path = self.out.join(name);
        atomic::write(&path, bytes).map_err(|error| unwritable(&path, &error))?;
        Ok(path)
    }
}

fn sample(lesson: Lesson) -> NewSample {
    NewSample {
        dataset: NAME.to_owned(),
        id: lesson.id,
        labels: vec![lesson.label.to_owned()],
        source: "demo".to_owned(),
        content: Some(Content::Image(Photograph::from_bytes(lesson.file).into())),
        ..NewSample::default()
    }
}

fn undrawable(error: VisionError) -> CliError {
    CliError::Other(format!("a picture cannot be made: {error}"))
}

fn unwritable(path: &Path, error: &std::io::Error) -> CliError {
    CliError::Other(format!(
        "cannot write {}: {error}; choose another folder with --out",
        path.display()
    ))
}
