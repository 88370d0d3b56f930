//! Runs the suite of meta over the embedded etcd and prints how each case ended.
//!
//! An argument picks the cases whose name holds it. The same list runs over a real etcd by
//! `cargo run -p integration --bin meta-suite`.

use std::process::ExitCode;

use auxo_meta_service::conformance;

mod embedded;

#[allow(
    clippy::print_stdout,
    reason = "the report is what this program is for"
)]
#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let filter = arguments.find(|word| !word.starts_with('-'));
    let (mut passed, mut failed) = (0, 0);
    for case in conformance::cases() {
        if filter.as_ref().is_none_or(|part| case.name.contains(part)) {
            let outcome = conformance::run(&embedded::Embedded, &case).await;
            println!("embedded {outcome}");
            match outcome.failed {
                None => passed += 1,
                Some(_) => failed += 1,
            }
        }
    }
    println!("embedded: {passed} passed, {failed} failed");
    ExitCode::from(u8::from(failed > 0))
}
