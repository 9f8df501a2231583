//! How far a training is, by the samples that its fits have read.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Iterations after which an iterative fit counts as half done; how many it takes is known at its end.
const HALF_WAY: f64 = 50.0;

/// What a training is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Cross-validating recipes.
    Selecting,
    /// Fitting the chosen recipe on all samples.
    Fitting,
    /// Fitting the novelty model.
    Novelty,
    /// Measuring whether more samples would help.
    LearningCurve,
}

/// News of a training under way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Share of the whole that is done, 0 to 1; never less than before.
    pub done: f32,
    /// Training objective, while fitting.
    pub loss: Option<f64>,
    /// Accuracy on held-out folds of the best recipe so far.
    pub held_out_accuracy: Option<f64>,
}

/// Who hears the news; folds are fitted on several threads.
pub type Listener<'a> = dyn FnMut(Progress) + Send + 'a;

/// The share of an iterative fit that is done after so many iterations, likely; below 1.
pub fn share_of_iterations(iteration: usize) -> f32 {
    (iteration as f64 / (iteration as f64 + HALF_WAY)) as f32
}

/// Adds up what is done by fits that may run side by side. Work is counted in samples times fits.
pub(super) struct Meter<'a> {
    whole: f64,
    state: Mutex<State<'a>>,
}

struct State<'a> {
    listener: &'a mut Listener<'a>,
    done: f64,
    latest: Progress,
}

impl<'a> Meter<'a> {
    pub(super) fn new(phase: Phase, whole: f64, listener: &'a mut Listener<'a>) -> Self {
        let latest = Progress { phase, done: 0.0, loss: None, held_out_accuracy: None };
        let state = Mutex::new(State { listener, done: 0.0, latest });
        Self { whole: whole.max(f64::MIN_POSITIVE), state }
    }

    /// Another phase begins.
    pub(super) fn enter(&self, phase: Phase) {
        self.tell(0.0, |latest| latest.phase = phase);
    }

    /// Some recipe reaches this accuracy on what was held out.
    pub(super) fn reached(&self, accuracy: f64) {
        self.tell(0.0, |latest| {
            let best = latest.held_out_accuracy.map_or(accuracy, |best| best.max(accuracy));
            latest.held_out_accuracy = Some(best);
        });
    }

    /// A fit that is so much work begins.
    pub(super) fn fit(&self, work: f64) -> Fit<'_, 'a> {
        Fit { meter: self, work, share: 0.0 }
    }

    /// All is done.
    pub(super) fn end(self) {
        self.tell(self.whole, |_| {});
    }

    fn tell(&self, work: f64, change: impl FnOnce(&mut Progress)) {
        let mut state = self.lock();
        state.done = (state.done + work).min(self.whole);
        let done = (state.done / self.whole) as f32;
        change(&mut state.latest);
        state.latest.done = state.latest.done.max(done);
        let latest = state.latest;
        (state.listener)(latest);
    }

    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One fit among those that a [`Meter`] counts.
pub(super) struct Fit<'m, 'a> {
    meter: &'m Meter<'a>,
    work: f64,
    share: f64,
}

impl Fit<'_, '_> {
    /// Another iteration is done; `loss` where it is that of the fit that counts.
    pub(super) fn iterated(&mut self, iteration: usize, loss: Option<f64>) {
        let share = f64::from(share_of_iterations(iteration)).max(self.share);
        let more = self.work * (share - self.share);
        self.share = share;
        self.meter.tell(more, |latest| latest.loss = loss.or(latest.loss));
    }

    /// The fit is done.
    pub(super) fn end(self) {
        self.meter.tell(self.work * (1.0 - self.share), |_| {});
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fits_side_by_side_add_up_to_the_whole_and_never_go_back() {
        let mut heard = Vec::new();
        let mut listener = |news| heard.push(news);
        let meter = Meter::new(Phase::Selecting, 400.0, &mut listener);
        let (mut small, mut large) = (meter.fit(100.0), meter.fit(300.0));
        for iteration in 1..=50 {
            large.iterated(iteration, None);
            small.iterated(iteration, None);
        }
        small.end();
        meter.reached(0.5);
        meter.enter(Phase::Fitting);
        large.iterated(51, Some(0.25));
        large.end();
        meter.end();
        assert!(heard.windows(2).all(|pair| pair[0].done <= pair[1].done), "{heard:?}");
        // Half of both, then all of the small one.
        assert!((heard[99].done - 0.5).abs() < 1e-6, "{:?}", heard[99]);
        assert!((heard[100].done - 0.625).abs() < 1e-6, "{:?}", heard[100]);
        let last = heard.last().unwrap();
        let expected = Progress {
            phase: Phase::Fitting,
            done: 1.0,
            loss: Some(0.25),
            held_out_accuracy: Some(0.5),
        };
        assert_eq!(*last, expected);
    }
}
