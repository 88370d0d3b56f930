//! Messages and services that cross a process, generated from `proto/*.proto` at build time.
//!
//! Never here: a decision about what a message means.

/// The session between nodes and meta, and the API of meta.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::large_enum_variant,
    reason = "generated code; the comments of the .proto files document it"
)]
pub mod meta {
    tonic::include_proto!("auxo.meta");
}

/// What nodes say to each other.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "generated code; the comments of the .proto files document it"
)]
pub mod node {
    tonic::include_proto!("auxo.node");
}
