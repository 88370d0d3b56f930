//! The topic of a region: its name, the settings it is made with, and which of them are refused when
//! they are found to be otherwise.
//!
//! A topic deleted and made again under the same name is another log, and neither a produce nor a
//! fetch request would notice. The client library does not show the topic's id, so each topic is
//! made with a *mark*: a random value of `delete.retention.ms`, a setting without effect where
//! nothing is compacted. A handle compares it with the one it was opened on.

use std::collections::BTreeMap;

use rdkafka::admin::ConfigResource;

use super::clients::Placement;
use super::settings::BATCH_BYTES_MAX;
use crate::RegionId;

/// Copies of a topic.
pub(super) const COPIES: usize = 3;

/// Copies that have a frame before it is acknowledged.
pub(super) const IN_SYNC: usize = 2;

/// The setting that holds the mark.
pub(super) const MARK: &str = "delete.retention.ms";

/// Marks lie below this, so that every tool can show them.
const MARKS: u64 = 1 << 53;

/// Name of a region's topic.
pub(super) fn name(cluster: &str, region: RegionId) -> String {
    let RegionId { shard, incarnation } = region;
    format!("auxo.{cluster}.{shard}.{incarnation:x}")
}

/// Name of the topic on which the service itself is checked; no frame lies in it.
pub(super) fn check_name(cluster: &str) -> String {
    format!("auxo.{cluster}.check")
}

/// The mark made of a random number.
pub(super) fn mark(drawn: u64) -> u64 {
    drawn % (MARKS - 1) + 1
}

/// The mark of a topic; `None` if it is not shown.
pub(super) fn mark_of(resource: &ConfigResource) -> Option<u64> {
    resource.get(MARK)?.value.as_ref()?.parse().ok()
}

/// The settings a topic is made with.
pub(super) fn settings(copies: usize, mark: u64) -> BTreeMap<&'static str, String> {
    let in_sync = if copies == 1 { 1 } else { IN_SYNC };
    [
        ("min.insync.replicas", in_sync.to_string()),
        ("unclean.leader.election.enable", "false".to_owned()),
        ("cleanup.policy", "delete".to_owned()),
        ("retention.ms", "-1".to_owned()),
        ("retention.bytes", "-1".to_owned()),
        ("max.message.bytes", BATCH_BYTES_MAX.to_string()),
        ("message.timestamp.type", "LogAppendTime".to_owned()),
        // A truncation frees whole segments; the default keeps a gigabyte per region.
        ("segment.bytes", (64 << 20).to_string()),
        (MARK, mark.to_string()),
    ]
    .into()
}

/// What Kafka says of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Described {
    /// Partitions.
    pub(super) partitions: usize,
    /// Copies of partition 0.
    pub(super) copies: usize,
    /// Effective settings.
    pub(super) settings: BTreeMap<String, String>,
}

impl Described {
    pub(super) fn new(placement: &Placement, resource: &ConfigResource) -> Self {
        let entries = resource.entries.iter();
        let settings = entries.filter_map(|entry| Some((entry.name.clone(), entry.value.clone()?)));
        Self {
            partitions: placement.partitions,
            copies: placement.copies,
            settings: settings.collect(),
        }
    }

    /// Copies that must have a frame before it is acknowledged.
    pub(super) fn in_sync(&self) -> usize {
        let found = self.settings.get("min.insync.replicas");
        found.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// The first setting under which an acknowledged frame could be lost, or a legal one refused.
    pub(super) fn wrong(&self, allow_weak: bool) -> Option<String> {
        if self.partitions != 1 {
            let found = self.partitions;
            return Some(format!("a region's topic has 1 partition, found {found}"));
        }
        if !allow_weak && self.copies < COPIES {
            let found = self.copies;
            return Some(format!("replication.factor must be {COPIES}, is {found}"));
        }
        if !allow_weak && self.in_sync() < IN_SYNC {
            let found = self.in_sync();
            return Some(format!("min.insync.replicas must be {IN_SYNC}, is {found}"));
        }
        let exact = [
            ("unclean.leader.election.enable", "false"),
            ("cleanup.policy", "delete"),
            ("retention.ms", "-1"),
            ("retention.bytes", "-1"),
            // With the writer's time a node whose clock is ahead could not append.
            ("message.timestamp.type", "LogAppendTime"),
        ];
        for (name, right) in exact {
            let found = self.settings.get(name).map_or("not set", String::as_str);
            if found != right {
                return Some(format!("{name} must be {right}, is {found}"));
            }
        }
        let name = "max.message.bytes";
        let found = self.settings.get(name).map_or("not set", String::as_str);
        match found.parse::<usize>() {
            Ok(bytes) if bytes >= BATCH_BYTES_MAX => None,
            _ => Some(format!(
                "{name} must be at least {BATCH_BYTES_MAX}, is {found}"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right() -> Described {
        let settings = settings(COPIES, 7);
        let settings = settings.into_iter();
        Described {
            partitions: 1,
            copies: COPIES,
            settings: settings
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        }
    }

    #[test]
    fn a_topic_as_it_is_made_is_right() {
        assert_eq!(right().wrong(false), None);
        assert_eq!(right().in_sync(), IN_SYNC);
        assert_eq!(right().settings[MARK], "7");
    }

    #[test]
    fn each_wrong_setting_is_named() {
        let wrong = [
            ("min.insync.replicas", "1"),
            ("unclean.leader.election.enable", "true"),
            ("cleanup.policy", "compact,delete"),
            ("retention.ms", "604800000"),
            ("retention.bytes", "1073741824"),
            ("message.timestamp.type", "CreateTime"),
            ("max.message.bytes", "1048588"),
        ];
        for (name, value) in wrong {
            let mut topic = right();
            topic.settings.insert(name.to_owned(), value.to_owned());
            let told = topic.wrong(false).unwrap();
            assert!(told.contains(name) && told.contains(value), "{told}");
            let mut topic = right();
            topic.settings.remove(name);
            assert!(topic.wrong(false).unwrap().contains(name));
        }
        let copies = Described {
            copies: 2,
            ..right()
        };
        assert!(copies.wrong(false).unwrap().contains("replication.factor"));
        let split = Described {
            partitions: 2,
            ..right()
        };
        assert!(split.wrong(true).unwrap().contains("partition"));
    }

    #[test]
    fn only_copies_may_be_weak() {
        let mut weak = Described {
            copies: 1,
            ..right()
        };
        weak.settings
            .insert("min.insync.replicas".to_owned(), "1".to_owned());
        assert_eq!(weak.wrong(true), None);
        weak.settings
            .insert("retention.ms".to_owned(), "1".to_owned());
        assert!(weak.wrong(true).unwrap().contains("retention.ms"));
    }

    #[test]
    fn names_say_which_region_and_marks_fit_every_tool() {
        let region = RegionId {
            shard: 12,
            incarnation: 0xab,
        };
        assert_eq!(name("prod", region), "auxo.prod.12.ab");
        assert_eq!(check_name("prod"), "auxo.prod.check");
        for drawn in [0, 1, MARKS - 1, MARKS, u64::MAX] {
            assert!((1..MARKS).contains(&mark(drawn)));
        }
    }
}
