//! Runs the suite over the adapters of this crate and prints how each case ended.
//!
//! An argument picks the cases whose `adapter number name` holds it; `child …` is this program
//! running itself again as the writer that is killed.

use std::process::ExitCode;

use auxo_wal_adapters::conformance::subjects::{Local, Memory};
use auxo_wal_adapters::conformance::{self, Adapter, Ended, Scale, child};

#[tokio::main]
async fn main() -> std::io::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, child @ ..] = arguments.as_slice()
        && first == "child"
    {
        let ended = child::child_main(child).await;
        return Ok(ExitCode::from(u8::from(ended.is_err())));
    }
    let filter = arguments.iter().find(|word| !word.starts_with('-'));
    let place = tempfile::tempdir()?;
    let program = std::env::current_exe()?;
    let local = Local {
        root: place.path().to_owned(),
        child: vec![program.to_string_lossy().into_owned(), "child".to_owned()],
    };
    let mut failed = 0;
    for adapter in [&Memory as &dyn Adapter, &local] {
        failed += run(adapter, filter.map(String::as_str)).await;
    }
    Ok(ExitCode::from(u8::from(failed > 0)))
}

#[allow(
    clippy::print_stdout,
    reason = "the report is what this program is for"
)]
async fn run(adapter: &dyn Adapter, filter: Option<&str>) -> usize {
    let name = adapter.name();
    let outcomes = conformance::run(adapter, &Scale::default(), |case| {
        let shown = format!("{name} {} {}", case.number, case.name);
        filter.is_none_or(|filter| shown.contains(filter))
    })
    .await;
    for outcome in &outcomes {
        println!("{name} {outcome}");
    }
    let count = |is: fn(&Ended) -> bool| outcomes.iter().filter(|one| is(&one.ended)).count();
    let passed = count(|ended| *ended == Ended::Passed);
    let not_applicable = count(|ended| matches!(ended, Ended::NotApplicable(_)));
    let failed = count(|ended| matches!(ended, Ended::Failed(_)));
    println!("{name}: {passed} passed, {not_applicable} not applicable, {failed} failed");
    failed
}
