//! The types and services generated from `proto/`.
//!
//! They are the wire's shapes, not ours: `rpc::convert` turns them into domain types at the edge,
//! and nothing below it sees them. The client shares them.

/// `graft.v1`, the daemon's own protocol.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used, rustdoc::all)]
pub mod graft {
    tonic::include_proto!("graft.v1");
}

/// `inference`, the Open Inference Protocol.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used, rustdoc::all)]
pub mod inference {
    tonic::include_proto!("inference");
}

/// Every file of `proto/` as an encoded `google.protobuf.FileDescriptorSet`, comments included.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("descriptors");
