//! The wire contract as a stranger meets it: by reflection, method by method, and in a client that
//! is built without the daemon.

mod common;

use std::process::Command;

use common::daemon::Daemon;
use graftd::proto::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_types::FileDescriptorSet;
use tokio_stream::StreamExt;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_reflection::pb::{v1, v1alpha};
use tonic_types::StatusExt;

/// Service and method names of `proto/`.
fn contract() -> Vec<(String, Vec<String>)> {
    let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let services = files.file.iter().flat_map(|file| {
        file.service.iter().map(|service| {
            let methods = service.method.iter().map(|method| method.name().to_owned()).collect();
            (format!("{}.{}", file.package(), service.name()), methods)
        })
    });
    services.collect()
}

#[tokio::test]
async fn reflection_in_both_versions_lists_every_service() {
    use v1::server_reflection_request::MessageRequest;
    use v1::server_reflection_response::MessageResponse;
    use v1alpha::server_reflection_request::MessageRequest as AlphaRequest;
    use v1alpha::server_reflection_response::MessageResponse as AlphaResponse;

    let daemon = Daemon::start().await;
    let channel = daemon.channel().await;
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers =
        client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();

    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(AlphaRequest::ListServices(String::new())),
    };
    let mut answers =
        client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response.unwrap();
    let AlphaResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let alpha: Vec<String> = list.service.into_iter().map(|service| service.name).collect();

    for (service, _) in contract() {
        assert!(names.contains(&service), "{service} is not in {names:?}");
        assert!(alpha.contains(&service), "{service} is not in {alpha:?}");
    }
    assert!(names.iter().any(|name| name == "grpc.health.v1.Health"));
}

#[tokio::test]
async fn every_method_of_the_contract_is_served() {
    let daemon = Daemon::start().await;
    let mut client = tonic::client::Grpc::new(daemon.channel().await);
    let mut unimplemented = Vec::new();
    for (service, methods) in contract() {
        for method in methods {
            let path = PathAndQuery::try_from(format!("/{service}/{method}")).unwrap();
            client.ready().await.unwrap();
            // On the wire every kind of call begins as a stream; `()` is the empty message.
            let empty = tonic::Request::new(tokio_stream::once(()));
            let codec = tonic_prost::ProstCodec::<(), ()>::default();
            let outcome = match client.streaming(empty, path, codec).await {
                Ok(answers) => answers.into_inner().next().await.transpose().map(|_| ()),
                Err(status) => Err(status),
            };
            if let Err(status) = outcome {
                assert_ne!(status.message(), "", "{service}/{method} is not routed: {status}");
                assert_ne!(status.code() as i32, 13, "{service}/{method}: {status}");
                if status.code() as i32 == 12 {
                    let details = status.get_error_details();
                    let reason = details.error_info().map(|info| info.reason.as_str());
                    assert_eq!(reason, Some("NOT_YET"), "{service}/{method}: {status}");
                    unimplemented.push(format!("{service}/{method}"));
                }
            }
        }
    }
    println!("not implemented yet: {unimplemented:#?}");
}

#[test]
fn the_client_is_built_without_the_engine() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--no-default-features", "--edges", "normal", "--offline", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8_lossy(&tree.stdout);
    for heavy in ["tract", "rusqlite", "image v", "rayon"] {
        assert!(!tree.contains(heavy), "{heavy} is in\n{tree}");
    }
    assert!(tree.contains("tonic"));
}
