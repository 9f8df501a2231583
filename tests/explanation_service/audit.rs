//! A whole dataset.

use graftd::client::messages::audit_dataset_response::Part;
use graftd::client::messages::{
    AuditDatasetRequest, Box, ClassAudit, DatasetSettings, ExplainMethod, ExplainOptions,
    ExplainRequest, NewSample, OverlayOptions, PredictRequest, Retention, SampleBoxes, new_sample,
};
use graftd::client::{AuditStream, Client, ClientError, ErrorKind, Picture};
use graftd::engine::PoolOptions;
use graftd::explain::audit::{Audit, Look};
use graftd::explain::{Evidence, Map, Scaling};
use graftd::rpc::ServerOptions;
use graftd::vision::{self, ImageFormat};

use crate::common::daemon::{Daemon, photograph};

/// A PNG with a bright spot whose corner lies at this pixel.
fn spot((x, y): (usize, usize), number: usize) -> Vec<u8> {
    let pixel = |at: usize| {
        let inside = (x..x + 16).contains(&(at % 48)) && (y..y + 16).contains(&(at / 48));
        if inside { [230, 220, 20] } else { [(at * 7 + number * 13) as u8 % 50; 3] }
    };
    let picture = vision::Picture::new(48, 48, (0..48 * 48).flat_map(pixel).collect()).unwrap();
    vision::encode(&picture, ImageFormat::Png).unwrap()
}

/// The spots of two classes: always in the middle, except of the bee called `odd`.
fn spots() -> Vec<(&'static str, String, Vec<u8>)> {
    let of = |label: &'static str| {
        (0..8).map(move |number| (label, format!("{label}/{number}"), spot((16, 16), number)))
    };
    let odd = ("bee", "odd".to_string(), spot((0, 32), 3));
    of("ant").chain(of("bee")).chain([odd]).collect()
}

async fn add(client: &Client, label: &str, id: &str, bytes: Vec<u8>) {
    let image = PredictRequest::from(Picture::from_bytes(bytes)).image.unwrap();
    let sample = NewSample {
        dataset: "spots".into(),
        id: id.into(),
        labels: vec![label.into()],
        content: Some(new_sample::Content::Image(image)),
        ..NewSample::default()
    };
    client.add_sample(sample).await.unwrap();
}

fn request() -> AuditDatasetRequest {
    AuditDatasetRequest {
        dataset: "spots".into(),
        backbone: "logits".into(),
        ..AuditDatasetRequest::default()
    }
}

/// The progress in order, and the classes.
async fn collect(
    mut audit: AuditStream,
) -> Result<(Vec<(u64, u64)>, Vec<ClassAudit>), ClientError> {
    let (mut progress, mut classes) = (Vec::new(), Vec::new());
    while let Some(part) = audit.next().await? {
        match part {
            Part::Progress(step) => progress.push((step.done, step.total)),
            Part::Class(class) => classes.push(class),
        }
    }
    Ok((progress, classes))
}

async fn refused(client: &Client, request: AuditDatasetRequest) -> ClientError {
    match client.audit_dataset(request).await {
        Ok(stream) => collect(stream).await.unwrap_err(),
        Err(error) => error,
    }
}

/// The middle spot; only the bees are known to be there.
const MIDDLE: Box = Box { x0: 16.0, y0: 16.0, x1: 32.0, y1: 32.0 };

/// What the same findings are when each sample is explained by itself.
async fn one_by_one(client: &Client) -> Audit {
    let mut audit = Audit::default();
    for (label, id, bytes) in spots() {
        let true_boxes = if label == "bee" { vec![MIDDLE] } else { Vec::new() };
        let options =
            ExplainOptions { class: format!("label:{label}"), true_boxes, ..Default::default() };
        let request = ExplainRequest {
            backbone: "logits".into(),
            options: Some(options),
            ..ExplainRequest::from(Picture::from_bytes(bytes))
        };
        let found = client.explain(request).await.unwrap().explanation.unwrap();
        let size = (found.height as usize, found.width as usize);
        let map = Map::new(size, found.raw, Evidence::For, Scaling::Maximum).unwrap();
        let mut look = Look::new(id, &map, None).unwrap();
        look.outside_energy =
            found.quality.and_then(|quality| quality.true_box_energy).map(|inside| 1.0 - inside);
        audit.add(label, look);
    }
    audit
}

#[tokio::test]
async fn a_dataset_is_audited_class_by_class_as_its_samples_are_explained_one_by_one() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    for (label, id, bytes) in spots() {
        add(&client, label, &id, bytes).await;
    }
    let ids = spots().into_iter().filter(|(label, _, _)| *label == "bee").map(|(_, id, _)| id);
    let true_boxes = ids.map(|id| SampleBoxes { id, boxes: vec![MIDDLE] }).collect();
    let with_boxes = AuditDatasetRequest { true_boxes, ..request() };
    let audit = client.audit_dataset(with_boxes).await.unwrap();
    let (progress, classes) = collect(audit).await.unwrap();
    assert_eq!(progress, (1..=17).map(|done| (done, 17)).collect::<Vec<_>>());
    let expected = one_by_one(&client).await.finish();
    assert_eq!(classes.len(), expected.len());
    for (class, expected) in classes.iter().zip(expected) {
        assert_eq!(class.label, expected.class);
        assert_eq!(class.sample_count, expected.images as u64);
        assert_eq!(class.without_evidence_count, expected.without_evidence as u64);
        assert_eq!((class.failed_count, class.failure.as_str()), (0, ""));
        assert_eq!(class.mean_map.len(), (class.height * class.width) as usize);
        assert_eq!(class.mean_map, expected.mean_map);
        assert_eq!(class.border_energy, expected.border_energy);
        assert!((0.0..=1.0).contains(&class.border_energy));
        assert_eq!(class.outside_energy, expected.outside_energy);
        assert_eq!(class.outside_energy.is_some(), class.label == "bee");
        let worst = expected.deviations.into_iter().map(|deviation| deviation.image);
        assert_eq!(class.deviating_samples, worst.take(10).collect::<Vec<_>>());
    }
    assert_eq!(classes[1].deviating_samples[0], "odd", "its spot lies elsewhere");
}

#[tokio::test]
async fn a_class_is_sampled_evenly_and_one_that_the_network_lacks_says_so() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    for (label, id, bytes) in spots() {
        add(&client, label, &id, bytes).await;
    }
    add(&client, "unicorn", "unicorn/0", photograph()).await;
    let few = AuditDatasetRequest { samples_per_class: Some(4), ..request() };
    let audit = client.audit_dataset(few).await.unwrap();
    let (progress, classes) = collect(audit).await.unwrap();
    assert_eq!(progress.last(), Some(&(9, 9)));
    let counts: Vec<_> =
        classes.iter().map(|c| (c.label.as_str(), c.sample_count, c.failed_count)).collect();
    assert_eq!(counts, [("ant", 4, 0), ("bee", 4, 0), ("unicorn", 0, 1)]);
    assert!(classes[2].failure.contains("unicorn"), "{}", classes[2].failure);
    assert!(classes[2].mean_map.iter().all(|value| *value == 0.0));
}

#[tokio::test]
async fn what_cannot_be_audited_is_refused_with_its_reason() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let error = refused(&client, request()).await;
    assert_eq!(error.kind, ErrorKind::NotFound, "unknown dataset: {error}");

    let settings =
        DatasetSettings { retention: Retention::Embeddings.into(), ..DatasetSettings::default() };
    client.configure_dataset("spots", settings).await.unwrap();
    let error = refused(&client, request()).await;
    assert_eq!(error.kind, ErrorKind::FailedPrecondition, "empty dataset: {error}");
    assert!(error.message.contains("no labelled sample"), "{error}");

    add(&client, "ant", "ant/0", photograph()).await;
    let error = refused(&client, request()).await;
    assert_eq!(error.kind, ErrorKind::FailedPrecondition, "embeddings only: {error}");
    assert!(error.message.contains("photograph"), "{error}");

    client.configure_dataset("spots", DatasetSettings::default()).await.unwrap();
    add(&client, "ant", "ant/1", photograph()).await;
    let with = |options| AuditDatasetRequest { options: Some(options), ..request() };
    let class = ExplainOptions { class: "0".into(), ..ExplainOptions::default() };
    let error = refused(&client, with(class)).await;
    assert_eq!((error.kind, error.field.as_str()), (ErrorKind::InvalidArgument, "options.class"));
    let whole = Box { x0: 0.0, y0: 0.0, x1: 9.0, y1: 9.0 };
    for (options, field) in [
        (ExplainOptions { quality: true, ..Default::default() }, "quality"),
        (ExplainOptions { true_boxes: vec![whole], ..Default::default() }, "true_boxes"),
        (ExplainOptions { photograph_map: true, ..Default::default() }, "photograph_map"),
        (
            ExplainOptions { overlay: Some(OverlayOptions::default()), ..Default::default() },
            "overlay",
        ),
    ] {
        let error = refused(&client, with(options)).await;
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{field}: {error}");
        assert_eq!(error.field, format!("options.{field}"));
    }
    let named = |boxes| SampleBoxes { id: "ant/1".into(), boxes };
    for (true_boxes, field) in [
        (vec![named(vec![whole]), named(vec![whole])], "true_boxes[1].id"),
        (vec![named(Vec::new())], "true_boxes[0].boxes"),
        (vec![named(vec![whole; 101])], "true_boxes[0].boxes"),
        (vec![named(vec![whole, Box { x1: 0.0, ..whole }])], "true_boxes[0].boxes[1]"),
        (vec![named(vec![Box { y0: f32::NAN, ..whole }])], "true_boxes[0].boxes[0]"),
    ] {
        let error = refused(&client, AuditDatasetRequest { true_boxes, ..request() }).await;
        assert_eq!((error.kind, error.field.as_str()), (ErrorKind::InvalidArgument, field));
    }
    let layer = ExplainOptions { layers: vec!["nowhere".into()], ..ExplainOptions::default() };
    let error = refused(&client, with(layer)).await;
    assert_eq!(error.kind, ErrorKind::NotFound, "unknown layer: {error}");
    let other = AuditDatasetRequest { backbone: "nobody".into(), ..request() };
    assert_eq!(refused(&client, other).await.kind, ErrorKind::NotFound);
    let none = AuditDatasetRequest { samples_per_class: Some(0), ..request() };
    let error = refused(&client, none).await;
    assert_eq!(error.field, "samples_per_class");
}

#[tokio::test]
async fn an_audit_whose_caller_hangs_up_ends() {
    let state = tempfile::tempdir().unwrap();
    let pool = PoolOptions { workers: 1, queue: 2 };
    let daemon = Daemon::start_in(state.path(), pool, ServerOptions::default()).await;
    let client = daemon.client().await;
    for (label, id, bytes) in spots() {
        add(&client, label, &id, bytes).await;
    }
    // A thousand runs a sample: at most the first can be over when the caller leaves.
    let options = ExplainOptions {
        method: ExplainMethod::SmoothGrad.into(),
        smoothgrad_samples: Some(1000),
        ..ExplainOptions::default()
    };
    let request = AuditDatasetRequest { options: Some(options), ..request() };
    let mut audit = client.audit_dataset(request).await.unwrap();
    assert!(matches!(audit.next().await.unwrap(), Some(Part::Progress(_))));
    drop(audit);
    let before = daemon.engine.statistics();
    // One worker serves both: predictions pass one after the other once the audit is gone.
    for _ in 0..20 {
        client.predict(Picture::from_bytes(photograph()).into()).await.unwrap();
    }
    // A worker answers before it counts itself as free.
    daemon.busy(0).await;
    let after = daemon.engine.statistics();
    let of_the_audit = after.finished - before.finished - 20;
    assert!(of_the_audit <= 2, "{of_the_audit} explanations ran on after the caller had left");
    assert_eq!(after.queued, 0);
}
