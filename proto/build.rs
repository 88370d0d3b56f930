//! Generates the services and messages of `proto/*.proto`; needs no installed protoc.

#![allow(clippy::print_stdout, reason = "how a build script speaks to cargo")]

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "session.proto",
        "meta.proto",
        "forwarding.proto",
        "reading.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed=proto/{file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
