//! The 15 query shapes of the TSBS "cpu-only" benchmark over one wide table, written for our SQL, for
//! DuckDB and for QuestDB.
//!
//! Shape: `cpu(time, 10 tags, 10 integer fields)`, 10 s apart, 24 h from 2026-01-01T00:00:00Z. The
//! windows begin and end between buckets, as the benchmark's do.
//!
//! Source of the shapes: the public benchmark suite TSBS, use case cpu-only.

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Ours.
    Auxo,
    /// DuckDB, which calls the bucket function otherwise.
    DuckDb,
    /// QuestDB, whose line protocol calls the time column `timestamp`.
    QuestDb,
}

/// One query.
#[derive(Clone, Debug)]
pub struct Query {
    /// The benchmark's name for it.
    pub name: &'static str,
    /// Its text.
    pub sql: String,
    /// Whether the order of rows is part of the answer.
    pub ordered: bool,
}

/// The ten fields.
pub const FIELDS: [&str; 10] = [
    "usage_user",
    "usage_system",
    "usage_idle",
    "usage_nice",
    "usage_iowait",
    "usage_irq",
    "usage_softirq",
    "usage_steal",
    "usage_guest",
    "usage_guest_nice",
];

/// The ten tags.
pub const TAGS: [&str; 10] = [
    "hostname",
    "region",
    "datacenter",
    "rack",
    "os",
    "arch",
    "team",
    "service",
    "service_version",
    "service_environment",
];

/// Windows and hosts of one run.
#[derive(Clone, Debug)]
pub struct Draw {
    /// Begin of every window, RFC 3339 with a fraction.
    pub hour: [String; 2],
    /// A window of eight hours.
    pub eight_hours: [String; 2],
    /// A window of twelve hours.
    pub twelve_hours: [String; 2],
    /// Before this the newest five minutes are wanted.
    pub before: String,
    /// The eight hosts; the first is the one of single-host queries.
    pub hosts: [u32; 8],
}

impl Default for Draw {
    fn default() -> Self {
        let from = |end: &str| ["2026-01-01T07:23:41.518207Z".to_owned(), end.to_owned()];
        Self {
            hour: from("2026-01-01T08:23:41.518207Z"),
            eight_hours: from("2026-01-01T15:23:41.518207Z"),
            twelve_hours: from("2026-01-01T19:23:41.518207Z"),
            before: "2026-01-01T17:41:09.204119Z".to_owned(),
            hosts: [5, 1, 3, 7, 11, 13, 17, 19],
        }
    }
}

/// All fifteen, in the benchmark's order.
pub fn all(dialect: Dialect, draw: &Draw) -> Vec<Query> {
    let bucket = |width: &str| match dialect {
        Dialect::Auxo => format!("date_bin(INTERVAL '{width}', time)"),
        Dialect::DuckDb => format!("time_bucket(INTERVAL '{width}', time)"),
        Dialect::QuestDb => {
            let unit = if width == "1 hour" { "1h" } else { "1m" };
            format!("timestamp_floor('{unit}', timestamp)")
        }
    };
    let time = match dialect {
        Dialect::Auxo | Dialect::DuckDb => "time",
        Dialect::QuestDb => "timestamp",
    };
    let literal = |text: &str| match dialect {
        Dialect::Auxo | Dialect::DuckDb => format!("TIMESTAMP '{}'", plain(text)),
        Dialect::QuestDb => format!("'{text}'"),
    };
    let within = |window: &[String; 2]| {
        format!(
            "{time} >= {} AND {time} < {}",
            literal(&window[0]),
            literal(&window[1])
        )
    };
    let hosts = |count: usize| {
        let names: Vec<_> = draw.hosts[..count]
            .iter()
            .map(|host| format!("'host_{host}'"))
            .collect();
        format!("hostname IN ({})", names.join(", "))
    };
    let each = |function: &str, count: usize| {
        let columns = FIELDS[..count]
            .iter()
            .map(|field| format!("{function}({field}) AS {field}"));
        columns.collect::<Vec<_>>().join(", ")
    };
    let by_bucket = |width: &str, fields: usize, hosts: &str, window: &str| {
        format!(
            "SELECT {} AS bucket, {} FROM cpu WHERE {hosts} AND {window} GROUP BY bucket ORDER BY bucket",
            bucket(width),
            each("max", fields),
        )
    };
    let by_host = |fields: usize| {
        format!(
            "SELECT {} AS bucket, hostname, {} FROM cpu WHERE {} GROUP BY bucket, hostname ORDER BY bucket, hostname",
            bucket("1 hour"),
            each("avg", fields),
            within(&draw.twelve_hours),
        )
    };
    let columns = format!("{time}, {}, {}", TAGS.join(", "), FIELDS.join(", "));
    let busy = |rest: &str| {
        format!(
            "SELECT {columns} FROM cpu WHERE usage_user > 90.0 AND {}{rest}",
            within(&draw.twelve_hours)
        )
    };
    let (hour, eight, twelve) = (
        within(&draw.hour),
        within(&draw.eight_hours),
        within(&draw.twelve_hours),
    );
    let query = |name, ordered, sql| Query { name, sql, ordered };
    vec![
        query(
            "single-groupby-1-1-1",
            true,
            by_bucket("1 minute", 1, &hosts(1), &hour),
        ),
        query(
            "single-groupby-1-1-12",
            true,
            by_bucket("1 minute", 1, &hosts(1), &twelve),
        ),
        query(
            "single-groupby-1-8-1",
            true,
            by_bucket("1 minute", 1, &hosts(8), &hour),
        ),
        query(
            "single-groupby-5-1-1",
            true,
            by_bucket("1 minute", 5, &hosts(1), &hour),
        ),
        query(
            "single-groupby-5-1-12",
            true,
            by_bucket("1 minute", 5, &hosts(1), &twelve),
        ),
        query(
            "single-groupby-5-8-1",
            true,
            by_bucket("1 minute", 5, &hosts(8), &hour),
        ),
        query(
            "cpu-max-all-1",
            true,
            by_bucket("1 hour", 10, &hosts(1), &eight),
        ),
        query(
            "cpu-max-all-8",
            true,
            by_bucket("1 hour", 10, &hosts(8), &eight),
        ),
        query("double-groupby-1", true, by_host(1)),
        query("double-groupby-5", true, by_host(5)),
        query("double-groupby-all", true, by_host(10)),
        query("high-cpu-1", false, busy(&format!(" AND {}", hosts(1)))),
        query("high-cpu-all", false, busy("")),
        query(
            "lastpoint",
            true,
            match dialect {
                Dialect::Auxo | Dialect::DuckDb => format!(
                    "SELECT DISTINCT ON (hostname) {columns} FROM cpu ORDER BY hostname, time DESC"
                ),
                Dialect::QuestDb => format!(
                    "SELECT {columns} FROM cpu LATEST ON timestamp PARTITION BY hostname ORDER BY hostname"
                ),
            },
        ),
        query(
            "groupby-orderby-limit",
            true,
            format!(
                "SELECT {} AS bucket, max(usage_user) AS usage_user FROM cpu WHERE {time} < {} \
                 GROUP BY bucket ORDER BY bucket DESC LIMIT 5",
                bucket("1 minute"),
                literal(&draw.before),
            ),
        ),
    ]
}

/// RFC 3339 in UTC as the text of a zoneless timestamp.
fn plain(time: &str) -> String {
    time.trim_end_matches('Z').replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_has_the_same_fifteen() {
        let draw = Draw::default();
        let (ours, theirs) = (all(Dialect::Auxo, &draw), all(Dialect::DuckDb, &draw));
        assert_eq!(ours.len(), 15);
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours.name, theirs.name);
            assert_eq!(ours.sql.replace("date_bin", "time_bucket"), theirs.sql);
        }
        let questdb = all(Dialect::QuestDb, &draw);
        for (ours, theirs) in ours.iter().zip(&questdb) {
            assert_eq!((ours.name, ours.ordered), (theirs.name, theirs.ordered));
            let foreign = ["INTERVAL", "TIMESTAMP '", "DISTINCT", " time "];
            let found = foreign.iter().find(|word| theirs.sql.contains(**word));
            assert_eq!(found, None, "{}", theirs.sql);
        }
    }
}
