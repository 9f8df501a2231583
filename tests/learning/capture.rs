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
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 10).await;
    train(&client, training(PromotionPolicy::Always)).await;
    let capture = CaptureSettings { maximum_probability: Some(1.0), ..CaptureSettings::default() };
    let mut settings = DatasetSettings { capture: Some(capture), ..DatasetSettings::default() };
    settings.set_retention(retention);
    client.configure_dataset("review", settings).await.unwrap();
    (daemon, client)
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
