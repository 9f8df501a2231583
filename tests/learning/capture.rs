//! Predictions that a head is not sure of are kept for review, however they were asked for.

use std::time::Duration;

use graftd::client::Client;
use graftd::client::messages::{
    CaptureSettings, DatasetSettings, ExplainOptions, GetSampleRequest, Image, ListSamplesRequest,
    PixelFormat, PredictRequest, PromotionPolicy, RawFrame, Retention, Sample, SampleFilter,
    SampleOrigin, image,
};
use graftd::proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use graftd::proto::inference::model_infer_request::InferInputTensor;
use graftd::proto::inference::{InferTensorContents, ModelInferRequest};
use graftd::vision::{self, Limits};

use crate::colours::{self, picture, push_colours, train, training};
use crate::common::daemon::Daemon;

/// A daemon with a head, and a dataset that captures all that it answers.
async fn capturing(retention: Retention) -> (Daemon, Client) {
    let capture = CaptureSettings { maximum_probability: Some(1.0), ..CaptureSettings::default() };
    let (daemon, client) = taught().await;
    configure(&client, capture, retention).await;
    (daemon, client)
}

async fn taught() -> (Daemon, Client) {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 10).await;
    train(&client, training(PromotionPolicy::Always)).await;
    (daemon, client)
}

/// Chooses what the dataset `review` captures.
async fn configure(client: &Client, capture: CaptureSettings, retention: Retention) {
    let mut settings = DatasetSettings { capture: Some(capture), ..DatasetSettings::default() };
    settings.set_retention(retention);
    client.configure_dataset("review", settings).await.unwrap();
}

/// A head's answer: how sure it is, whether it finds the picture strange, and the picture.
struct Answered {
    probability: f32,
    unknown: bool,
    picture: PredictRequest,
}

/// Answers on pictures from plain red to grey, before anything is captured.
async fn answers(client: &Client) -> Vec<Answered> {
    let mut found = Vec::new();
    for step in 0..8_u32 {
        let mix = |from: u32, to: u32| (from + (to * 12 - from * 12) * step / 84) as u8;
        let colour = [220 - 12 * step as u8, mix(30, 120), mix(30, 120)];
        let image = Some(colours::image(picture(colour, 40 + step)));
        let request = PredictRequest { image, head: "colour".into(), ..PredictRequest::default() };
        let answer = client.predict(request.clone()).await.unwrap();
        found.push(Answered {
            probability: answer.predictions[0].probability,
            unknown: answer.novelty.unwrap().unknown,
            picture: request,
        });
    }
    found
}

/// The captured samples, once there are so many.
async fn captured(client: &Client, count: usize) -> Vec<Sample> {
    let mut filter = SampleFilter { dataset: "review".into(), ..SampleFilter::default() };
    filter.set_origin(SampleOrigin::Capture);
    let request = ListSamplesRequest { filter: Some(filter), ..ListSamplesRequest::default() };
    let waiting = async {
        loop {
            let found = client.list_samples(request.clone()).await.unwrap().samples;
            if found.len() >= count {
                return found;
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(1), waiting).await.unwrap()
}

async fn picture_of(client: &Client, sample: &Sample) -> vision::Picture {
    let request = GetSampleRequest {
        dataset: "review".into(),
        id: sample.id.clone(),
        include_image: true,
        ..GetSampleRequest::default()
    };
    let image = client.get_sample(request).await.unwrap().image.unwrap();
    let Some(image::Source::Encoded(bytes)) = image.source else { panic!("no picture") };
    vision::decode(&bytes, &Limits::default()).unwrap()
}

fn grey(number: u32) -> PredictRequest {
    PredictRequest {
        image: Some(colours::image(picture([120, 120, 120], number))),
        head: "colour".into(),
        ..PredictRequest::default()
    }
}

#[tokio::test]
async fn a_dataset_that_keeps_thumbnails_gets_one_of_what_is_captured_and_its_size() {
    let (_daemon, client) = capturing(Retention::Thumbnails).await;
    client.predict(grey(1)).await.unwrap();
    let sample = captured(&client, 1).await.remove(0);
    assert_eq!((sample.width, sample.height), (24, 24));
    let kept = picture_of(&client, &sample).await;
    assert_eq!((kept.width, kept.height), (24, 24));
}

#[tokio::test]
async fn predictions_with_a_map_by_raw_frames_and_by_model_infer_are_captured_too() {
    let (daemon, client) = capturing(Retention::Images).await;
    let mapped = PredictRequest { explain: Some(ExplainOptions::default()), ..grey(1) };
    client.predict(mapped).await.unwrap();
    let sample = captured(&client, 1).await.remove(0);
    assert_eq!((sample.width, sample.height), (24, 24));

    let mut frame = RawFrame { data: vec![99; 3 * 20 * 10].into(), ..RawFrame::default() };
    (frame.width, frame.height) = (20, 10);
    frame.set_format(PixelFormat::Rgb8);
    let image = Some(Image { source: Some(image::Source::Raw(frame)) });
    client.predict(PredictRequest { image, ..grey(0) }).await.unwrap();
    let sample = captured(&client, 2).await.remove(1);
    let kept = picture_of(&client, &sample).await;
    assert_eq!((kept.width, kept.height), (20, 10));
    assert!(kept.pixels.iter().all(|&value| value == 99), "not without loss");

    let mut service = GrpcInferenceServiceClient::new(daemon.channel().await);
    let bytes = picture([120, 120, 120], 2);
    let contents = InferTensorContents { bytes_contents: vec![bytes.into()], ..Default::default() };
    let input = InferInputTensor {
        name: "image".into(),
        datatype: "BYTES".into(),
        shape: vec![1],
        contents: Some(contents),
        ..Default::default()
    };
    let request = ModelInferRequest {
        model_name: "colour".into(),
        inputs: vec![input],
        ..Default::default()
    };
    service.model_infer(request).await.unwrap();
    let sample = captured(&client, 3).await.remove(2);
    assert_eq!(sample.captured.unwrap().head, "colour@1");
}

/// The captures' thread keeps one picture after the other: once a later one is there, an earlier one
/// that is not was never kept.
#[tokio::test]
async fn what_a_head_is_sure_of_is_not_kept_and_what_it_is_not_sure_of_is() {
    let (_daemon, client) = taught().await;
    let answers = answers(&client).await;
    let capture = |maximum: f32| CaptureSettings {
        maximum_probability: Some(maximum),
        unknown: Some(false),
        ..CaptureSettings::default()
    };
    let (sure, unsure) = (&answers[0], &answers[1]);
    configure(&client, capture(0.9 * sure.probability), Retention::Images).await;
    client.predict(sure.picture.clone()).await.unwrap();
    configure(&client, capture(unsure.probability), Retention::Images).await;
    client.predict(unsure.picture.clone()).await.unwrap();
    let kept = captured(&client, 1).await;
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].captured.as_ref().unwrap().probability, unsure.probability);
}

#[tokio::test]
async fn what_is_unknown_is_kept_however_sure_the_head_is_and_only_where_that_is_asked_for() {
    let (_daemon, client) = taught().await;
    let answers = answers(&client).await;
    let known = answers.iter().find(|answer| !answer.unknown).expect("red is known");
    let unknown: Vec<_> = answers.iter().filter(|answer| answer.unknown).collect();
    assert!(unknown.len() >= 2, "what lies between the colours is not");
    // No probability is as low as this.
    let capture = |unknown| CaptureSettings {
        maximum_probability: Some(0.0),
        unknown: Some(unknown),
        ..CaptureSettings::default()
    };
    configure(&client, capture(false), Retention::Images).await;
    client.predict(unknown[0].picture.clone()).await.unwrap();
    configure(&client, capture(true), Retention::Images).await;
    client.predict(known.picture.clone()).await.unwrap();
    client.predict(unknown[1].picture.clone()).await.unwrap();
    let kept = captured(&client, 1).await;
    assert_eq!(kept.len(), 1);
    let captured = kept[0].captured.as_ref().unwrap();
    assert_eq!(captured.probability, unknown[1].probability);
    assert!(captured.novelty.is_some());
}
