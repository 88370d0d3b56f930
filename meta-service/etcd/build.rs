//! Generates the servers of Lock and Election, which `etcd-client` keeps to itself. Every other
//! message and server trait is the one `etcd-client` exports; nothing here generates a client.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = protox::compile(["lock.proto", "election.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_client(false)
        .extern_path(
            ".etcdserverpb.ResponseHeader",
            "::etcd_client::proto::PbResponseHeader",
        )
        .extern_path(".etcdserverpb.KeyValue", "::etcd_client::proto::PbKeyValue")
        .compile_fds(files)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
