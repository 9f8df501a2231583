//! The Open Inference Protocol over real gRPC, against onnxruntime's answers.

mod common;

use std::collections::HashMap;

use common::daemon::{Daemon, Occupied, photograph, reference};
use graftd::client::Picture;
use graftd::engine::PoolOptions;
use graftd::graph::{Network, Options, Source};
use graftd::proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use graftd::proto::inference::infer_parameter::ParameterChoice;
use graftd::proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use graftd::proto::inference::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
    ModelMetadataRequest, ModelReadyRequest, ServerMetadataRequest, ServerReadyRequest,
};
use graftd::rpc::ServerOptions;
use tonic::transport::Channel;

type Service = GrpcInferenceServiceClient<Channel>;

async fn service(daemon: &Daemon) -> Service {
    GrpcInferenceServiceClient::new(daemon.channel().await)
}

/// The input of `tests/reference/tiny.py`: element i is sin(i).
fn row() -> Vec<f32> {
    (0..3 * 16 * 16).map(|i| f64::from(i).sin() as f32).collect()
}

/// What onnxruntime answers for that input.
fn expected(ending: &str) -> Vec<f32> {
    let text = std::fs::read_to_string(reference("tiny/expected.json")).unwrap();
    let all: HashMap<String, Vec<f32>> = serde_json::from_str(&text).unwrap();
    all[ending].clone()
}

fn values(model: &str, rows: usize) -> ModelInferRequest {
    let contents = InferTensorContents { fp32_contents: row().repeat(rows), ..Default::default() };
    let input = InferInputTensor {
        name: "input".into(),
        datatype: "FP32".into(),
        shape: vec![rows as i64, 3, 16, 16],
        contents: Some(contents),
        ..Default::default()
    };
    ModelInferRequest {
        model_name: model.into(),
        id: "request-7".into(),
        inputs: vec![input],
        ..Default::default()
    }
}

fn raw(mut request: ModelInferRequest) -> ModelInferRequest {
    let contents = request.inputs[0].contents.take().unwrap();
    let bytes: Vec<u8> = contents.fp32_contents.iter().flat_map(|v| v.to_le_bytes()).collect();
    request.raw_input_contents.push(bytes.into());
    request
}

async fn infer(service: &mut Service, request: ModelInferRequest) -> ModelInferResponse {
    service.model_infer(request).await.unwrap().into_inner()
}

fn assert_close(actual: &[f32], expected: &[f32]) {
    assert_eq!(actual.len(), expected.len());
    for (actual, expected) in actual.iter().zip(expected) {
        assert!((actual - expected).abs() < 1e-5, "{actual} {expected}");
    }
}

#[tokio::test]
async fn the_server_and_its_models_describe_themselves() {
    let daemon = Daemon::start().await;
    let mut service = service(&daemon).await;
    let server = service.server_metadata(ServerMetadataRequest {}).await.unwrap().into_inner();
    assert_eq!((server.name.as_str(), server.version.as_str()), ("graftd", "0.1.0"));
    assert!(service.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    for (name, version, ready) in
        [("logits", "", true), ("logits", "1", true), ("logits", "2", false), ("none", "", false)]
    {
        let request = ModelReadyRequest { name: name.into(), version: version.into() };
        assert_eq!(service.model_ready(request).await.unwrap().into_inner().ready, ready);
    }
    let request = ModelMetadataRequest { name: "softmax".into(), version: String::new() };
    let model = service.model_metadata(request).await.unwrap().into_inner();
    let describe = |tensor: &graftd::proto::inference::model_metadata_response::TensorMetadata| {
        format!("{} {} {:?}", tensor.name, tensor.datatype, tensor.shape)
    };
    let inputs: Vec<_> = model.inputs.iter().map(describe).collect();
    assert_eq!(inputs, ["input FP32 [-1, 3, 16, 16]", "image BYTES [-1]"]);
    assert_eq!(describe(&model.outputs[0]), "softmax FP32 [-1, 4]");
    assert_eq!(
        (model.versions.as_slice(), model.platform.as_str()),
        (&["1".into()][..], "graftd_onnx")
    );
}

#[tokio::test]
async fn the_file_s_own_output_comes_back_with_its_values_unchanged() {
    let daemon = Daemon::start().await;
    for ending in ["log_softmax", "sigmoid"] {
        let file = Source::File(reference(&format!("tiny/{ending}.onnx")));
        daemon.serve_too(ending, Network::load(file, &Options::default()).unwrap());
    }
    let mut service = service(&daemon).await;
    for ending in ["logits", "softmax", "log_softmax", "sigmoid", "features"] {
        let expected = expected(ending).repeat(3);
        let answer = infer(&mut service, values(ending, 3)).await;
        assert_eq!((answer.id.as_str(), answer.model_version.as_str()), ("request-7", "1"));
        assert_eq!(answer.outputs[0].name, ending);
        assert_eq!(answer.outputs[0].shape, [3, expected.len() as i64 / 3]);
        assert_close(&answer.outputs[0].contents.clone().unwrap().fp32_contents, &expected);

        let answer = infer(&mut service, raw(values(ending, 3))).await;
        assert!(answer.outputs[0].contents.is_none(), "a raw request gets a raw answer");
        let (words, _) = answer.raw_output_contents[0].as_chunks::<4>();
        let actual: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        assert_close(&actual, &expected);
    }
}

#[tokio::test]
async fn photographs_come_as_bytes_and_classes_go_as_text() {
    let daemon = Daemon::start().await;
    let mut service = service(&daemon).await;
    let best = daemon.client().await.predict(Picture::from_bytes(photograph()).into()).await;
    let best = best.unwrap().predictions.remove(0);
    let contents = InferTensorContents {
        bytes_contents: vec![photograph().into(), photograph().into()],
        ..Default::default()
    };
    let input = InferInputTensor {
        name: "image".into(),
        datatype: "BYTES".into(),
        shape: vec![2],
        contents: Some(contents),
        ..Default::default()
    };
    let two = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(2)) };
    let output = InferRequestedOutputTensor {
        name: "logits".into(),
        parameters: HashMap::from([("classification".into(), two)]),
    };
    let request = ModelInferRequest {
        model_name: "logits".into(),
        inputs: vec![input],
        outputs: vec![output],
        ..Default::default()
    };
    let answer = infer(&mut service, request).await;
    assert_eq!(answer.outputs[0].datatype, "BYTES");
    assert_eq!(answer.outputs[0].shape, [2, 2]);
    let elements = &answer.outputs[0].contents.as_ref().unwrap().bytes_contents;
    let text = format!("{}:{}:{}", best.logit, best.index, best.label);
    assert_eq!((&elements[0][..], &elements[2][..]), (text.as_bytes(), text.as_bytes()));
}

/// The rows of [`values`], no two alike.
fn different_rows(model: &str, rows: usize) -> ModelInferRequest {
    let mut request = values(model, rows);
    let contents = request.inputs[0].contents.as_mut().unwrap();
    for (row, values) in contents.fp32_contents.chunks_mut(3 * 16 * 16).enumerate() {
        values.iter_mut().for_each(|value| *value *= 0.5 + row as f32);
    }
    request
}

/// A daemon with two workers, both occupied until the senders are dropped.
async fn two_busy_workers() -> (tempfile::TempDir, Daemon, Vec<Occupied>) {
    let state = tempfile::tempdir().unwrap();
    let pool = PoolOptions { workers: 2, queue: 8 };
    let daemon = Daemon::start_in(state.path(), pool, ServerOptions::default()).await;
    let occupied = vec![daemon.occupy().await, daemon.occupy().await];
    (state, daemon, occupied)
}

#[tokio::test]
async fn the_rows_of_one_request_run_on_all_workers_and_keep_their_order() {
    let (_state, daemon, occupied) = two_busy_workers().await;
    let mut alone = Vec::new();
    let mut service = service(&daemon).await;
    let call = {
        let mut service = service.clone();
        tokio::spawn(async move { infer(&mut service, different_rows("logits", 7)).await })
    };
    daemon.queued(3).await; // one for each worker, one more that waits
    drop(occupied);
    let together = call.await.unwrap().outputs.remove(0).contents.unwrap().fp32_contents;
    for row in different_rows("logits", 7).inputs[0]
        .contents
        .as_ref()
        .unwrap()
        .fp32_contents
        .chunks(3 * 16 * 16)
    {
        let mut request = values("logits", 1);
        request.inputs[0].contents.as_mut().unwrap().fp32_contents = row.to_vec();
        alone.extend(
            infer(&mut service, request).await.outputs.remove(0).contents.unwrap().fp32_contents,
        );
    }
    assert_eq!(together, alone);
}

#[tokio::test]
async fn a_caller_that_hangs_up_takes_its_rows_with_it() {
    let (_state, daemon, _occupied) = two_busy_workers().await;
    let mut service = service(&daemon).await;
    let call = tokio::spawn(async move { infer(&mut service, values("logits", 64)).await });
    daemon.queued(3).await;
    call.abort();
    daemon.queued(0).await;
}

#[tokio::test]
async fn more_rows_than_the_queue_has_places_are_no_error() {
    let daemon = Daemon::start().await;
    let mut service = service(&daemon).await;
    let answer = infer(&mut service, values("features", 64)).await;
    assert_eq!(answer.outputs[0].shape[0], 64);
}

#[tokio::test]
async fn wrong_requests_are_refused_and_the_next_good_one_is_answered() {
    let daemon = Daemon::start().await;
    let mut service = service(&daemon).await;
    let mut both = raw(values("logits", 1));
    both.inputs[0].contents = Some(InferTensorContents::default());
    let mut wrong_shape = values("logits", 1);
    wrong_shape.inputs[0].shape = vec![1, 16, 16, 3];
    let mut wrong_type = values("logits", 1);
    wrong_type.inputs[0].datatype = "FP16".into();
    let mut too_short = raw(values("logits", 2));
    too_short.raw_input_contents[0].truncate(10);
    let mut twice = values("logits", 1);
    twice.inputs.push(twice.inputs[0].clone());
    let mut picture = values("logits", 1);
    picture.inputs[0] = InferInputTensor {
        name: "image".into(),
        datatype: "BYTES".into(),
        shape: vec![4],
        contents: Some(InferTensorContents {
            bytes_contents: vec![
                photograph().into(),
                photograph().into(),
                b"junk".as_slice().into(),
                photograph().into(),
            ],
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut raw_picture = picture.clone();
    raw_picture.inputs[0].shape = vec![1];
    raw_picture.inputs[0].contents = None;
    raw_picture.raw_input_contents = vec![b"\x04\0\0\0junk".as_slice().into()];
    for (request, words) in [
        (both, "raw_input_contents"),
        (wrong_shape, "inputs[0].shape"),
        (wrong_type, "inputs[0].datatype"),
        (too_short, "raw_input_contents[0]"),
        (raw_picture, "raw_input_contents[0]"),
        (twice, "exactly one"),
        (picture, "inputs[0].contents.bytes_contents[2]"),
        (values("logits", 65), "64 rows"),
    ] {
        let status = service.model_infer(request).await.unwrap_err();
        assert_eq!(status.code() as i32, 3, "{status}");
        assert!(status.message().contains(words), "{status}");
    }
    let unknown = service.model_infer(values("nothing", 1)).await.unwrap_err();
    assert_eq!(unknown.code() as i32, 5, "{unknown}");
    infer(&mut service, values("logits", 1)).await;
}
