//! A head as a model of the Open Inference Protocol.

use graftd::client::Picture;
use graftd::client::messages::{
    HeadKind, PredictRequest, PromotionPolicy, StartTrainingRequest, TrainingOptions,
};
use graftd::proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use graftd::proto::inference::model_infer_request::InferInputTensor;
use graftd::proto::inference::{InferTensorContents, ModelInferRequest, ModelMetadataRequest};

use crate::colours::{picture, push_colours, train, training};
use crate::common::daemon::Daemon;

#[tokio::test]
async fn a_head_is_a_model_that_answers_with_logits_and_probabilities() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    push_colours(&client, 10).await;
    train(&client, training(PromotionPolicy::Always)).await;
    let mut service = GrpcInferenceServiceClient::new(daemon.channel().await);
    let request = ModelMetadataRequest { name: "colour".into(), version: String::new() };
    let model = service.model_metadata(request).await.unwrap().into_inner();
    assert_eq!(
        (model.platform.as_str(), model.versions.as_slice()),
        ("graftd_head", &["1".into()][..])
    );
    let outputs = model.outputs.iter().map(|output| output.name.as_str()).collect::<Vec<_>>();
    assert_eq!(outputs, ["logits", "probabilities"]);

    let photograph = picture([120, 120, 120], 2);
    let bytes_contents = vec![photograph.clone().into()];
    let input = InferInputTensor {
        name: "image".into(),
        datatype: "BYTES".into(),
        shape: vec![1],
        contents: Some(InferTensorContents { bytes_contents, ..Default::default() }),
        ..Default::default()
    };
    let request = ModelInferRequest {
        model_name: "colour".into(),
        inputs: vec![input],
        ..Default::default()
    };
    let answer = service.model_infer(request).await.unwrap().into_inner();
    assert_eq!(answer.model_version, "1");
    let values = |index: usize| {
        assert_eq!(answer.outputs[index].name, outputs[index]);
        answer.outputs[index].contents.clone().unwrap().fp32_contents
    };
    let (logits, probabilities) = (values(0), values(1));
    let request =
        PredictRequest { head: "colour".into(), ..Picture::from_bytes(photograph).into() };
    let predicted = client.predict(request).await.unwrap().predictions;
    assert_eq!((logits.len(), probabilities.len()), (predicted.len(), predicted.len()));
    for one in predicted {
        let index = one.index as usize;
        assert_eq!((logits[index], probabilities[index]), (one.logit, one.probability));
    }
}

#[tokio::test]
async fn all_rows_of_a_request_are_answered_by_the_version_that_it_began_with() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    push_colours(&client, 10).await;
    train(&client, training(PromotionPolicy::Always)).await;
    let options = TrainingOptions { kind: HeadKind::Prototype.into(), ..Default::default() };
    let second =
        StartTrainingRequest { options: Some(options), ..training(PromotionPolicy::Always) };
    train(&client, second).await;

    let photograph: bytes::Bytes = picture([120, 120, 120], 2).into();
    let bytes_contents = vec![photograph; 6];
    let input = InferInputTensor {
        name: "image".into(),
        datatype: "BYTES".into(),
        shape: vec![6],
        contents: Some(InferTensorContents { bytes_contents, ..Default::default() }),
        ..Default::default()
    };
    let request = ModelInferRequest {
        model_name: "colour".into(),
        inputs: vec![input],
        ..Default::default()
    };
    let occupied = daemon.occupy().await;
    let mut service = GrpcInferenceServiceClient::new(daemon.channel().await);
    let asked = tokio::spawn(async move { service.model_infer(request).await });
    // The first rows have been taken, the others wait for them.
    daemon.queued(2).await;
    client.rollback_head("colour").await.unwrap();
    drop(occupied);
    let answer = asked.await.unwrap().unwrap().into_inner();
    assert_eq!(answer.model_version, "2");
    let values = answer.outputs[1].contents.clone().unwrap().fp32_contents;
    let rows: Vec<&[f32]> = values.chunks(values.len() / 6).collect();
    assert!(rows.iter().all(|row| *row == rows[0]), "{rows:?}");
}
