//! Jobs, and pictures captured for review.

use super::super::*;
use super::*;

fn training() -> NewJob {
    NewJob { kind: "training".to_owned(), request: r#"{"dataset":"parts"}"#.to_owned() }
}

#[test]
fn a_job_that_ran_when_the_process_ended_is_interrupted_and_keeps_its_request() {
    let (folder, store, _) = fresh();
    let [finished, running, queued] = [0; 3].map(|_| store.add_job(training()).unwrap().id);
    let state = |state| JobUpdate { state: Some(state), ..JobUpdate::default() };
    store.update_job(finished, state(JobState::Running)).unwrap();
    let done = JobUpdate { report: Some("{}".into()), ..state(JobState::Succeeded) };
    store.update_job(finished, done).unwrap();
    store.update_job(running, state(JobState::Running)).unwrap();
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    let found = [finished, running, queued].map(|id| store.job(id).unwrap());
    assert_eq!(
        found.each_ref().map(|job| job.state),
        [JobState::Succeeded, JobState::Interrupted, JobState::Interrupted]
    );
    assert_eq!(found[1].request, training().request);
    assert!(found[1].started_at.is_some() && found[1].finished_at.is_some());
    let listed: Vec<_> = store.jobs(None, 2).unwrap().into_iter().map(|job| job.id).collect();
    assert_eq!(listed, [queued, running]);
}

#[test]
fn an_unknown_job_is_an_error_that_names_it() {
    let (_folder, store, _) = fresh();
    for id in [JobId(7), JobId(u64::MAX)] {
        assert_eq!(store.job(id).unwrap_err().to_string(), format!("there is no job {id}"));
    }
    assert!(store.update_job(JobId(7), JobUpdate::default()).is_err());
}

#[test]
fn captured_pictures_keep_their_budget_and_wait_unlabelled() {
    let (_folder, store, parts) = fresh();
    let unsure = |number| NewSample {
        prediction: Some(r#"{"label":"nut","probability":0.4}"#.to_owned()),
        ..sample(number)
    };
    let budget = CaptureBudget { hourly: 3, waiting: 100 };
    for number in 0..3 {
        assert!(store.capture_sample(&parts, unsure(number), budget).unwrap());
    }
    assert!(!store.capture_sample(&parts, unsure(3), budget).unwrap(), "three an hour");
    let full = CaptureBudget { hourly: 100, waiting: 3 };
    assert!(!store.capture_sample(&parts, unsure(3), full).unwrap(), "three wait");
    let queue =
        Filter { origin: Some(Origin::Capture), unlabelled: Some(true), ..Filter::default() };
    let waiting = store.samples(&parts, &queue, None, 10).unwrap().samples;
    assert_eq!(waiting.len(), 3);
    assert_eq!(waiting[0].prediction, unsure(0).prediction);
    let label = SampleChange { labels: Some(vec!["gear".into()]), ..SampleChange::default() };
    store.update_sample(&parts, &waiting[0].id, label).unwrap();
    assert_eq!(store.totals(&parts, &queue).unwrap().samples, 2);
    assert!(store.capture_sample(&parts, unsure(3), full).unwrap(), "one was reviewed");
}

#[test]
fn pictures_that_a_wrong_clock_dated_years_ahead_do_not_use_up_the_hourly_budget() {
    let (_folder, store, parts) = fresh();
    let budget = CaptureBudget { hourly: 2, waiting: 100 };
    for number in 0..2 {
        assert!(store.capture_sample(&parts, sample(number), budget).unwrap());
    }
    assert!(!store.capture_sample(&parts, sample(2), budget).unwrap(), "two an hour");
    dated_in_2100(&store);
    assert!(store.capture_sample(&parts, sample(2), budget).unwrap());
    assert!(store.capture_sample(&parts, sample(3), budget).unwrap());
    assert!(!store.capture_sample(&parts, sample(4), budget).unwrap(), "two an hour again");
}

#[test]
fn the_budget_of_captures_is_asked_of_an_index_and_not_of_the_dataset() {
    let (_folder, store, _) = fresh();
    for (sql, index) in [
        (super::super::intake::CAPTURED_BETWEEN, "samples_captured_at (added_at>? AND added_at<?)"),
        (super::super::intake::CAPTURED_WAITING, "samples_captured_waiting (key>? AND key<?)"),
    ] {
        let plan: String = store
            .read(|connection| {
                let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
                let values = vec![0; statement.parameter_count()];
                let values = rusqlite::params_from_iter(values);
                Ok(statement.query_row(values, |row| row.get(3))?)
            })
            .unwrap();
        assert!(plan.contains(index), "{plan}");
    }
}
