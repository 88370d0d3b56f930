//! What is measured: the tags that a source is born with, and the fields that walk.
//!
//! A field is a random walk over whole units: it starts anywhere in its range, moves by a normally
//! distributed step each interval, and stays inside. The value shown is the whole part.

use super::dice::Dice;

/// How a field's units are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// As an integer.
    Whole,
    /// As a float with that many digits behind the point: a unit is one in the last digit.
    Decimal(u32),
    /// As a boolean: true from the given value upwards.
    From(i64),
}

/// A field of a set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) show: Show,
    /// Smallest and largest value in units, both reached.
    pub(super) range: (i64, i64),
    /// Standard deviation of a step in units.
    pub(super) step: i64,
    /// Chance in 2³² that a row lacks it.
    pub(super) null: u64,
}

/// A set of data.
#[derive(Clone, Copy, Debug)]
pub(super) struct Set {
    pub(super) measurement: &'static str,
    pub(super) tags: &'static [&'static str],
    pub(super) fields: &'static [Field],
    /// Draws the tags' values of a source; `None` where it lacks a tag.
    pub(super) draw: fn(u32, &mut Dice) -> Vec<Option<String>>,
}

const fn percentage(name: &'static str) -> Field {
    Field {
        name,
        show: Show::Whole,
        range: (0, 100),
        step: 1,
        null: 0,
    }
}

/// Load of a host's processors; every row is complete.
pub(super) const CPU_ONLY: Set = Set {
    measurement: "cpu",
    tags: &[
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
    ],
    fields: &[
        percentage("usage_user"),
        percentage("usage_system"),
        percentage("usage_idle"),
        percentage("usage_nice"),
        percentage("usage_iowait"),
        percentage("usage_irq"),
        percentage("usage_softirq"),
        percentage("usage_steal"),
        percentage("usage_guest"),
        percentage("usage_guest_nice"),
    ],
    draw: draw_host,
};

/// Regions with the letters of their data centres.
const REGIONS: [(&str, &str); 9] = [
    ("ap-northeast-1", "ac"),
    ("ap-southeast-1", "ab"),
    ("ap-southeast-2", "ab"),
    ("eu-central-1", "ab"),
    ("eu-west-1", "abc"),
    ("sa-east-1", "abc"),
    ("us-east-1", "abce"),
    ("us-west-1", "ab"),
    ("us-west-2", "abc"),
];

fn one_of<'t>(words: &[&'t str], dice: &mut Dice) -> &'t str {
    words[dice.below(words.len() as u64) as usize]
}

fn draw_host(host: u32, dice: &mut Dice) -> Vec<Option<String>> {
    let (region, letters) = REGIONS[dice.below(REGIONS.len() as u64) as usize];
    let letter = dice.below(letters.len() as u64) as usize;
    let tags = [
        format!("host_{host}"),
        region.to_owned(),
        format!("{region}{}", &letters[letter..=letter]),
        dice.below(100).to_string(),
        one_of(&["Ubuntu15.10", "Ubuntu16.04LTS", "Ubuntu16.10"], dice).to_owned(),
        one_of(&["x64", "x86"], dice).to_owned(),
        one_of(&["CHI", "LON", "NYC", "SF"], dice).to_owned(),
        dice.below(20).to_string(),
        dice.below(2).to_string(),
        one_of(&["production", "staging", "test"], dice).to_owned(),
    ];
    tags.map(Some).into()
}

/// One in `n`, in 2³².
const fn one_in(n: u64) -> u64 {
    (1 << 32) / n
}

/// Trucks on the road: floats, a switch, missing values, and one truck in ten without a fleet.
pub(super) const IOT: Set = Set {
    measurement: "readings",
    tags: &["name", "fleet", "driver", "model", "device_version"],
    fields: &[
        Field {
            name: "status",
            show: Show::Whole,
            range: (0, 5),
            step: 1,
            null: 0,
        },
        Field {
            name: "latitude",
            show: Show::Decimal(5),
            range: (-9_000_000, 9_000_000),
            step: 100,
            null: one_in(20),
        },
        Field {
            name: "longitude",
            show: Show::Decimal(5),
            range: (-18_000_000, 18_000_000),
            step: 100,
            null: one_in(20),
        },
        Field {
            name: "elevation",
            show: Show::Decimal(1),
            range: (-1_000, 50_000),
            step: 20,
            null: one_in(10),
        },
        Field {
            name: "velocity",
            show: Show::Decimal(1),
            range: (0, 1_200),
            step: 30,
            null: one_in(10),
        },
        Field {
            name: "fuel_state",
            show: Show::Decimal(3),
            range: (0, 1_000),
            step: 2,
            null: one_in(5),
        },
        Field {
            name: "current_load",
            show: Show::Whole,
            range: (0, 5_000),
            step: 50,
            null: one_in(2),
        },
        Field {
            name: "engine_on",
            show: Show::From(30),
            range: (0, 100),
            step: 3,
            null: one_in(50),
        },
    ],
    draw: draw_truck,
};

fn draw_truck(truck: u32, dice: &mut Dice) -> Vec<Option<String>> {
    let fleet = one_of(&["East", "North", "South", "West"], dice);
    let known = dice.below(10) > 0;
    let names = ["Albert", "Andy", "Derek", "Rodney", "Seth", "Trish"];
    vec![
        Some(format!("truck_{truck}")),
        known.then(|| fleet.to_owned()),
        Some(one_of(&names, dice).to_owned()),
        Some(one_of(&["F-150", "G-2000", "H-2"], dice).to_owned()),
        Some(format!("v{}.{}", 1 + dice.below(2), dice.below(6))),
    ]
}
