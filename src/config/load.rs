//! From files, environment and flags to one checked tree, with the origin of every value.
//!
//! 1. The known keys are those of the default tree; there is no second list of them.
//! 2. Each source is read into assignments: a key, a value, and where it stands. A key nobody knows
//!    is a fault at its own place, with the nearest known one beside it.
//! 3. Assignments are laid over the defaults one by one, lowest source first. Each is checked by
//!    reading the whole tree again, so a bad value is known by its key and place.
//! 4. What follows from other keys is filled in, and what contradicts is a fault.
//!
//! All faults are collected and reported together. Never here: a value that is guessed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use auxo_proto::error::Position;
use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

use super::Config;
use crate::environment::Environment;

/// Files read when no other is named; the later one wins.
const FILES: [&str; 2] = ["/etc/auxo/auxo.toml", "auxo.toml"];

/// Variables with our prefix that are no keys.
const NOT_KEYS: [&str; 4] = ["AUXO_TOKEN", "AUXO_CACHE", "AUXO_CONFIG", "AUXO_PROFILE"];

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This program.
    Default,
    /// Line and column of a file.
    File(String, Position),
    /// A variable of the environment.
    Variable(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(file, at) => write!(f, "{file}:{}:{}", at.line, at.column),
            Self::Variable(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// Everything that is wrong, a line for each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub(crate) struct Faults(Vec<String>);

/// A checked tree and where its values come from.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// Where the value of a key comes from.
    pub(crate) fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }
}

/// What is laid over the defaults, lowest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    /// `--config FILE`: replaces the usual files.
    pub(crate) only_file: Option<PathBuf>,
    /// The environment.
    pub(crate) environment: Environment,
    /// Flags: the flag's name, its key, its text.
    pub(crate) flags: Vec<(String, String, String)>,
}

struct Assignment {
    key: String,
    value: Value,
    origin: Origin,
}

/// Reads all sources.
pub(crate) fn load(sources: &Sources) -> Result<Loaded, Faults> {
    let known = Known::of_defaults();
    let mut assignments = Vec::new();
    let mut faults = Vec::new();
    for (path, must_exist) in files(sources) {
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let file = path.display().to_string();
                read_file(&file, &text, &known, &mut assignments, &mut faults);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => {}
            Err(error) => faults.push(format!("{}: {error}", path.display())),
        }
    }
    read_environment(&sources.environment, &known, &mut assignments, &mut faults);
    for (flag, key, text) in &sources.flags {
        let origin = Origin::Flag(flag.clone());
        known.assign_text(key, text, origin, &mut assignments, &mut faults);
    }
    let loaded = lay_over(known, assignments, &mut faults);
    match loaded {
        Some(loaded) if faults.is_empty() => Ok(loaded),
        _ => Err(Faults(faults)),
    }
}

fn files(sources: &Sources) -> Vec<(PathBuf, bool)> {
    let named = sources.environment.get("AUXO_CONFIG").map(PathBuf::from);
    match sources.only_file.clone().or(named) {
        Some(file) => vec![(file, true)],
        None => FILES.map(|file| (file.into(), false)).into(),
    }
}

/// The default tree, its keys and its sections.
struct Known {
    tree: Value,
    /// Every key and its default, in the order of the tree.
    keys: Vec<(String, Value)>,
}

impl Known {
    fn of_defaults() -> Self {
        let tree = tree_of(&Config::default());
        let keys = keys_of(&tree);
        Self { tree, keys }
    }

    fn default_of(&self, key: &str) -> Option<&Value> {
        let found = self.keys.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value)
    }

    fn is_section(&self, key: &str) -> bool {
        let prefix = format!("{key}.");
        self.keys
            .iter()
            .any(|(known, _)| known.starts_with(&prefix))
    }

    fn unknown(&self, key: &str) -> String {
        match self.nearest(key) {
            Some(nearest) => format!("unknown key {key:?}; did you mean {nearest:?}?"),
            None => format!("unknown key {key:?}"),
        }
    }

    /// The known key or section that is most like this one, if any is like it at all.
    fn nearest(&self, key: &str) -> Option<&str> {
        let sections = self
            .keys
            .iter()
            .filter_map(|(known, _)| known.split_once('.'));
        let candidates = sections
            .map(|(section, _)| section)
            .chain(self.keys.iter().map(|(known, _)| known.as_str()));
        candidates
            .map(|known| (strsim::jaro_winkler(key, known), known))
            .filter(|(alike, _)| *alike >= 0.8)
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, known)| known)
    }

    /// Notes a value given as text, which has the type of the key's default.
    fn assign_text(
        &self,
        key: &str,
        text: &str,
        origin: Origin,
        assignments: &mut Vec<Assignment>,
        faults: &mut Vec<String>,
    ) {
        let Some(default) = self.default_of(key) else {
            let fault = match self.is_section(key) {
                true => format!("{key:?} is a section; it has no value of its own"),
                false => self.unknown(key),
            };
            faults.push(format!("{origin}: {fault}"));
            return;
        };
        let value = match default {
            Value::Array(_) => text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .collect(),
            Value::Number(_) => text.parse::<u64>().map_or(text.into(), Value::from),
            Value::Bool(_) => text.parse::<bool>().map_or(text.into(), Value::from),
            _ => text.into(),
        };
        assignments.push(Assignment {
            key: key.to_owned(),
            value,
            origin,
        });
    }
}

fn read_environment(
    environment: &Environment,
    known: &Known,
    assignments: &mut Vec<Assignment>,
    faults: &mut Vec<String>,
) {
    for (name, text) in environment.iter() {
        let Some(rest) = name.strip_prefix("AUXO_") else {
            continue;
        };
        let key = rest.to_ascii_lowercase().replace("__", ".");
        // A service called "auxo" makes Kubernetes set AUXO_PORT and the like: a name without a
        // section is ours only if it is a key.
        let is_ours = rest.contains("__") || known.default_of(&key).is_some();
        if is_ours && !NOT_KEYS.contains(&name) {
            let origin = Origin::Variable(name.to_owned());
            known.assign_text(&key, text, origin, assignments, faults);
        }
    }
}

fn read_file(
    file: &str,
    text: &str,
    known: &Known,
    assignments: &mut Vec<Assignment>,
    faults: &mut Vec<String>,
) {
    let at = |offset: usize| Origin::File(file.to_owned(), Position::of_offset(text, offset));
    match DeTable::parse(text) {
        Ok(table) => {
            let mut walk = Walk {
                known,
                at: &at,
                assignments,
                faults,
            };
            walk.table(table.get_ref(), "");
        }
        Err(error) => {
            let offset = error.span().map_or(0, |span| span.start);
            faults.push(format!("{}: {}", at(offset), error.message()));
        }
    }
}

struct Walk<'a> {
    known: &'a Known,
    at: &'a dyn Fn(usize) -> Origin,
    assignments: &'a mut Vec<Assignment>,
    faults: &'a mut Vec<String>,
}

impl Walk<'_> {
    fn table(&mut self, table: &DeTable<'_>, section: &str) {
        for (name, value) in table {
            let key = match section {
                "" => name.get_ref().to_string(),
                _ => format!("{section}.{}", name.get_ref()),
            };
            let key_at = (self.at)(name.span().start);
            let value_at = (self.at)(value.span().start);
            match (value.get_ref(), self.known.default_of(&key).is_some()) {
                (DeValue::Table(inner), _) if self.known.is_section(&key) => {
                    self.table(inner, &key);
                }
                (_, false) if self.known.is_section(&key) => {
                    let fault =
                        format!("{value_at}: {key:?} is a section; it has no value of its own");
                    self.faults.push(fault);
                }
                (_, false) => {
                    let fault = self.known.unknown(&key);
                    self.faults.push(format!("{key_at}: {fault}"));
                }
                (value, true) => match json_of(value) {
                    Some(value) => self.assignments.push(Assignment {
                        key,
                        value,
                        origin: value_at,
                    }),
                    None => {
                        let kind = value.type_str();
                        let fault = format!("{value_at}: {key:?} cannot hold this {kind}");
                        self.faults.push(fault);
                    }
                },
            }
        }
    }
}

fn json_of(value: &DeValue<'_>) -> Option<Value> {
    match value {
        DeValue::String(text) => Some(text.as_ref().into()),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            parsed.ok().map(Value::from)
        }
        DeValue::Float(number) => number.as_str().parse::<f64>().ok().map(Value::from),
        DeValue::Boolean(truth) => Some((*truth).into()),
        DeValue::Array(list) => list.iter().map(|item| json_of(item.get_ref())).collect(),
        DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}

/// Lays the assignments over the defaults; nothing if the defaults themselves cannot be read.
fn lay_over(
    known: Known,
    assignments: Vec<Assignment>,
    faults: &mut Vec<String>,
) -> Option<Loaded> {
    let mut tree = known.tree;
    let mut origins = BTreeMap::new();
    for Assignment { key, value, origin } in assignments {
        let mut with = tree.clone();
        set(&mut with, &key, value);
        match serde_json::from_value::<Config>(with.clone()) {
            Ok(_) => {
                tree = with;
                origins.insert(key, origin);
            }
            Err(error) => faults.push(format!("{origin}: bad value for {key:?}: {error}")),
        }
    }
    let mut config: Config = serde_json::from_value(tree).ok()?;
    match config.derive(&host_name()) {
        Ok(()) => faults.extend(config.contradictions()),
        Err(fault) => faults.push(format!("\"data_dir\": {fault}")),
    }
    Some(Loaded { config, origins })
}

fn set(tree: &mut Value, key: &str, value: Value) {
    let mut place = tree;
    for part in key.split('.') {
        place = &mut place[part];
    }
    *place = value;
}

/// The tree a configuration is written as.
pub(crate) fn tree_of(config: &Config) -> Value {
    serde_json::to_value(config).unwrap_or_else(|_| Value::Object(Map::new()))
}

/// Every key of a tree and its value, in the order of the tree.
pub(crate) fn keys_of(tree: &Value) -> Vec<(String, Value)> {
    let mut keys = Vec::new();
    let sections = tree.as_object().into_iter().flatten();
    for (name, value) in sections {
        match value {
            Value::Object(section) => keys.extend(
                section
                    .iter()
                    .map(|(key, value)| (format!("{name}.{key}"), value.clone())),
            ),
            _ => keys.push((name.clone(), value.clone())),
        }
    }
    keys
}

/// The host's name, as far as the system tells.
fn host_name() -> String {
    let told = std::fs::read_to_string(Path::new("/proc/sys/kernel/hostname")).unwrap_or_default();
    match told.trim() {
        "" => "node".to_owned(),
        name => name.to_owned(),
    }
}
