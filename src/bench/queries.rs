//! The fifteen kinds of query of a monitoring benchmark over one wide table of CPU measurements.
//!
//! What is measured: host names in `hostname`, ten fields of use in percent, a row per host every
//! few seconds in `time`. Each round of a kind gets its own window, drawn evenly from the range of
//! the data down to the nanosecond and so aligned to nothing, and its own hosts.
//!
//! Source: the query types of TSBS (github.com/timescale/tsbs, use case "cpu-only").

use std::fmt::Write as _;

use auxo_proto::random::Random;
use chrono::{DateTime, SecondsFormat};

const NS_PER_HOUR: i64 = 3_600_000_000_000;

const FIELDS: [&str; 10] = [
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

/// Where the data lies.
#[derive(Clone, Debug)]
pub(super) struct Data {
    /// Table of the measurements.
    pub(super) table: String,
    /// Hosts are called `host_0` up to one less than this.
    pub(super) hosts: u64,
    /// First time and the one behind the last, in nanoseconds since 1970.
    pub(super) start_ns: i64,
    pub(super) end_ns: i64,
}

/// A kind of query.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    shape: Shape,
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    /// Greatest values of so many fields by minute, of so many hosts over so many hours.
    MaxByMinute {
        fields: usize,
        hosts: usize,
        hours: i64,
    },
    /// Greatest values of all fields by hour, of so many hosts over eight hours.
    MaxByHour { hosts: usize },
    /// Means of so many fields by hour and host, of all hosts over twelve hours.
    MeanByHourAndHost { fields: usize },
    /// Whole rows of busy hosts over twelve hours; of all hosts if none are named.
    Busy { hosts: usize },
    /// The newest row of every host.
    Newest,
    /// The last five minutes before a random time.
    LastMinutes,
}

/// All kinds, in the order of the report.
pub(super) const KINDS: [Kind; 15] = [
    kind("single-groupby-1-1-1", by_minute(1, 1, 1)),
    kind("single-groupby-1-1-12", by_minute(1, 1, 12)),
    kind("single-groupby-1-8-1", by_minute(1, 8, 1)),
    kind("single-groupby-5-1-1", by_minute(5, 1, 1)),
    kind("single-groupby-5-1-12", by_minute(5, 1, 12)),
    kind("single-groupby-5-8-1", by_minute(5, 8, 1)),
    kind("cpu-max-all-1", Shape::MaxByHour { hosts: 1 }),
    kind("cpu-max-all-8", Shape::MaxByHour { hosts: 8 }),
    kind("double-groupby-1", Shape::MeanByHourAndHost { fields: 1 }),
    kind("double-groupby-5", Shape::MeanByHourAndHost { fields: 5 }),
    kind(
        "double-groupby-all",
        Shape::MeanByHourAndHost { fields: 10 },
    ),
    kind("high-cpu-1", Shape::Busy { hosts: 1 }),
    kind("high-cpu-all", Shape::Busy { hosts: 0 }),
    kind("lastpoint", Shape::Newest),
    kind("groupby-orderby-limit", Shape::LastMinutes),
];

const fn kind(name: &'static str, shape: Shape) -> Kind {
    Kind { name, shape }
}

const fn by_minute(fields: usize, hosts: usize, hours: i64) -> Shape {
    Shape::MaxByMinute {
        fields,
        hosts,
        hours,
    }
}

impl Kind {
    /// The statement of one round; the same dice give the same text.
    pub(super) fn draw(self, data: &Data, random: &Random) -> String {
        let table = quoted(&data.table);
        match self.shape {
            Shape::MaxByMinute {
                fields,
                hosts,
                hours,
            } => {
                let window = window(data, hours, random);
                let of_hosts = of_hosts(data, hosts, random);
                let greatest = each(fields, "max");
                format!(
                    "SELECT date_bin(INTERVAL '1 minute', time) AS minute, {greatest} FROM {table} \
                     WHERE {of_hosts} AND {window} GROUP BY minute ORDER BY minute"
                )
            }
            Shape::MaxByHour { hosts } => {
                let window = window(data, 8, random);
                let of_hosts = of_hosts(data, hosts, random);
                let greatest = each(FIELDS.len(), "max");
                format!(
                    "SELECT date_bin(INTERVAL '1 hour', time) AS hour, {greatest} FROM {table} \
                     WHERE {of_hosts} AND {window} GROUP BY hour ORDER BY hour"
                )
            }
            Shape::MeanByHourAndHost { fields } => {
                let window = window(data, 12, random);
                let means = each(fields, "avg");
                format!(
                    "SELECT date_bin(INTERVAL '1 hour', time) AS hour, hostname, {means} FROM {table} \
                     WHERE {window} GROUP BY hour, hostname ORDER BY hour, hostname"
                )
            }
            Shape::Busy { hosts } => {
                let window = window(data, 12, random);
                let mut sql = format!("SELECT * FROM {table} WHERE usage_user > 90 AND {window}");
                if hosts > 0 {
                    let _ = write!(sql, " AND {}", of_hosts(data, hosts, random));
                }
                sql
            }
            Shape::Newest => {
                format!("SELECT DISTINCT ON (hostname) * FROM {table} ORDER BY hostname, time DESC")
            }
            Shape::LastMinutes => {
                let end = time(window_ns(data, 1, random).1);
                format!(
                    "SELECT date_bin(INTERVAL '1 minute', time) AS minute, max(usage_user) AS max_usage_user \
                     FROM {table} WHERE time < '{end}' GROUP BY minute ORDER BY minute DESC LIMIT 5"
                )
            }
        }
    }
}

/// `max(usage_user) AS max_usage_user, …` of the first fields.
fn each(fields: usize, function: &str) -> String {
    let columns: Vec<_> = FIELDS[..fields]
        .iter()
        .map(|field| format!("{function}({field}) AS {function}_{field}"))
        .collect();
    columns.join(", ")
}

fn window(data: &Data, hours: i64, random: &Random) -> String {
    let (from, to) = window_ns(data, hours, random);
    format!("time >= '{}' AND time < '{}'", time(from), time(to))
}

/// A window of this length within the data; all of the data if it is shorter.
fn window_ns(data: &Data, hours: i64, random: &Random) -> (i64, i64) {
    let length = (hours * NS_PER_HOUR).min(data.end_ns - data.start_ns);
    let places = data.end_ns - data.start_ns - length;
    let from = data.start_ns + random.below(places.unsigned_abs() + 1) as i64;
    (from, from + length)
}

/// So many different hosts, or all of them if there are fewer.
fn of_hosts(data: &Data, wanted: usize, random: &Random) -> String {
    let mut drawn: Vec<u64> = Vec::new();
    while drawn.len() < wanted.min(data.hosts as usize) {
        let host = random.below(data.hosts);
        if !drawn.contains(&host) {
            drawn.push(host);
        }
    }
    let names: Vec<_> = drawn.iter().map(|host| format!("'host_{host}'")).collect();
    format!("hostname IN ({})", names.join(", "))
}

fn time(ns: i64) -> String {
    DateTime::from_timestamp_nanos(ns).to_rfc3339_opts(SecondsFormat::Nanos, true)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_NS: i64 = 24 * NS_PER_HOUR;

    fn data(hosts: u64) -> Data {
        let start_ns = 1_767_225_600_000_000_000;
        Data {
            table: "cpu".to_owned(),
            hosts,
            start_ns,
            end_ns: start_ns + DAY_NS,
        }
    }

    fn draw(name: &str, seed: u64) -> String {
        let kind = KINDS.iter().find(|kind| kind.name == name).unwrap();
        kind.draw(&data(100), &Random::seeded(seed))
    }

    #[test]
    fn the_same_seed_draws_the_same_text() {
        for kind in KINDS {
            assert_eq!(draw(kind.name, 1), draw(kind.name, 1));
            if kind.name != "lastpoint" {
                assert_ne!(draw(kind.name, 1), draw(kind.name, 2), "{}", kind.name);
            }
        }
    }

    #[test]
    fn a_statement_is_what_its_name_says() {
        let sql = draw("single-groupby-5-8-1", 3);
        assert_eq!(sql.matches("max(").count(), 5);
        assert_eq!(sql.matches("'host_").count(), 8);
        assert!(sql.starts_with("SELECT date_bin(INTERVAL '1 minute', time) AS minute, max(usage_user) AS max_usage_user"));
        assert!(sql.ends_with("GROUP BY minute ORDER BY minute"));
        assert_eq!(draw("double-groupby-all", 3).matches("avg(").count(), 10);
        assert!(!draw("high-cpu-all", 3).contains("hostname"));
    }

    #[test]
    fn windows_lie_within_the_data_and_have_their_length() {
        let random = Random::seeded(5);
        let data = data(3);
        for _ in 0..1_000 {
            let (from, to) = window_ns(&data, 12, &random);
            assert_eq!(to - from, 12 * NS_PER_HOUR);
            assert!(from >= data.start_ns && to <= data.end_ns);
        }
        assert_eq!(window_ns(&data, 99, &random), (data.start_ns, data.end_ns));
        assert_eq!(of_hosts(&data, 8, &random).matches("'host_").count(), 3);
        assert_eq!(time(data.start_ns), "2026-01-01T00:00:00.000000000Z");
    }
}
