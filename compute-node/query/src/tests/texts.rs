//! Text in, text out: each file of `testdata/` holds statements behind `> ` and what they answer.
//!
//! A statement may go on over several lines that begin with `> `; params stand as JSON behind
//! `> -- params: `. The answer ends at an empty line. Where a file differs, the whole of it as it
//! would be right is left in the temporary directory under its name.

use std::path::Path;

use arrow::array::RecordBatch;
use auxo_proto::key;
use auxo_proto::rows::Values;
use auxo_proto::schema::TableInfo;

use super::memory_table::Tables;
use super::{Bench, extremes, sample, show};
use crate::{Insert, Params, Statement, rows_of};

const PARAMS: &str = "-- params: ";

/// Runs every statement of a file and compares the answers.
async fn check(name: &str, bench: &Bench) {
    // Cargo runs tests in the folder of their package.
    let path = Path::new("testdata").join(name);
    let expected = std::fs::read_to_string(&path).unwrap();
    let mut actual = String::new();
    let mut lines = expected.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(first) = line.strip_prefix("> ") else {
            assert!(
                line.is_empty() || line.starts_with('#'),
                "{name}: answer without a statement: {line}"
            );
            actual.push_str(line);
            actual.push('\n');
            continue;
        };
        let mut statement = vec![first];
        while let Some(more) = lines.peek().and_then(|line| line.strip_prefix("> ")) {
            statement.push(more);
            lines.next();
        }
        while lines.peek().is_some_and(|line| !line.is_empty()) {
            lines.next();
        }
        for line in &statement {
            actual.push_str(&format!("> {line}\n"));
        }
        let params = statement.iter().find_map(|line| line.strip_prefix(PARAMS));
        let params = params.map_or(Params::None, |json| {
            Params::from_json(&serde_json::from_str(json).unwrap()).unwrap()
        });
        statement.retain(|line| !line.starts_with(PARAMS));
        actual.push_str(
            answer(bench, &statement.join("\n"), &params)
                .await
                .trim_end(),
        );
        actual.push('\n');
    }
    if actual != expected {
        let kept = std::env::temp_dir().join(name);
        std::fs::write(&kept, &actual).unwrap();
        let differs = actual
            .lines()
            .zip(expected.lines())
            .position(|(a, b)| a != b);
        panic!(
            "{name} differs at line {differs:?}; as it is: {}",
            kept.display()
        );
    }
}

/// What a statement answers, as text without an empty line.
async fn answer(bench: &Bench, text: &str, params: &Params) -> String {
    let answer = match bench.prepare_with(text, params) {
        Err(failure) => show(&failure),
        Ok(Statement::Query(plan)) => match bench.collect(*plan).await {
            Err(failure) => show(&failure),
            Ok(batches) => arrow::util::pretty::pretty_format_batches(&batches)
                .unwrap()
                .to_string(),
        },
        Ok(Statement::Insert(insert)) => {
            let Insert { table, query } = insert;
            match bench.collect(*query).await {
                Err(failure) => show(&failure),
                Ok(batches) => batches
                    .iter()
                    .map(|batch| inserted(&table, batch))
                    .collect(),
            }
        }
        Ok(Statement::Delete(delete)) => format!(
            "DELETE from {}: tags={:?} time={:?}",
            delete.table.name, delete.tags, delete.time
        ),
        Ok(Statement::Ddl(ddl)) => serde_json::to_string(&ddl).unwrap(),
    };
    answer.replace("\n\n", "\n")
}

/// Rows as an INSERT hands them over, one a line.
fn inserted(table: &TableInfo, batch: &RecordBatch) -> String {
    let rows = match rows_of(table, batch) {
        Ok(rows) => rows,
        Err(failure) => return show(&failure),
    };
    rows.check().unwrap();
    let mut text = format!("INSERT into {}", table.name);
    for row in 0..rows.len() {
        let key = rows.series.key(rows.series_of[row]);
        let tags: Vec<String> = key::decode(key)
            .map(|tag| {
                tag.unwrap().map_or("NULL".into(), |tag| {
                    String::from_utf8_lossy(&tag).into_owned()
                })
            })
            .collect();
        text.push_str(&format!("\n[{}] {}", tags.join(", "), rows.time[row]));
        for column in &rows.columns {
            let name = &table.schema.by_id(column.id).unwrap().name;
            if column.is_valid(row) {
                let value = match &column.values {
                    Values::Bytes(bytes) => {
                        format!("{:?}", String::from_utf8_lossy(bytes.get(row)))
                    }
                    values => format!("{:?}", values.take(&[row as u32])),
                };
                text.push_str(&format!(" {name}={value}"));
            }
        }
    }
    text
}

#[tokio::test]
async fn statements() {
    check("statements.txt", &Bench::new(Tables::new(vec![sample()]))).await;
}

#[tokio::test]
async fn changes() {
    check("changes.txt", &Bench::new(Tables::new(vec![sample()]))).await;
}

#[tokio::test]
async fn errors() {
    check("errors.txt", &Bench::new(Tables::new(vec![sample()]))).await;
}

#[tokio::test]
async fn numbers() {
    check("numbers.txt", &Bench::new(Tables::new(vec![extremes()]))).await;
}
