//! Keeps the house in order: floors, headers, names, pages. Each check is a function over text, and
//! is itself shown to fail on a small offence.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use auxo_proto::error::ErrorCode;
use cargo_metadata::{DependencyKind, MetadataCommand};

/// Words that no file, module or type has in its name: they say nothing.
const FORBIDDEN_WORDS: [&str; 5] = ["manager", "helper", "util", "utils", "common"];

/// The tree in which the tests run, asked each time: one build may serve several checkouts.
fn root() -> PathBuf {
    let here = std::env::current_dir().expect("the folder of this package");
    here.parent().expect("the workspace").to_owned()
}

/// Files of the tree with one of the endings, without build output.
fn files(endings: &[&str]) -> Vec<(String, String)> {
    let (root, mut found) = (root(), Vec::new());
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the tree") {
            let path = entry.expect("an entry").path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                if !matches!(name.as_str(), ".git" | "target" | "auxo-data") {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let text = std::fs::read(&path).expect("a file of the tree");
                let shown = path
                    .strip_prefix(&root)
                    .expect("below the root")
                    .to_string_lossy();
                found.push((
                    shown.into_owned(),
                    String::from_utf8_lossy(&text).into_owned(),
                ));
            }
        }
    }
    found.sort();
    found
}

type Edges = BTreeMap<String, BTreeSet<String>>;

/// Crates with their floors and edges, as the table of docs/architecture.md draws them.
fn drawn(page: &str) -> (BTreeMap<String, u32>, Edges) {
    let (mut floors, mut edges) = (BTreeMap::new(), Edges::new());
    for line in page.lines().filter(|line| line.starts_with("| auxo")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, floor, uses] = cells.as_slice() else {
            panic!("row of three cells: {line}");
        };
        floors.insert((*name).to_owned(), floor.parse().expect("a floor's number"));
        let uses = uses
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty());
        edges.insert((*name).to_owned(), uses.map(str::to_owned).collect());
    }
    (floors, edges)
}

fn upward(floors: &BTreeMap<String, u32>, edges: &Edges) -> Vec<String> {
    let mut wrong = Vec::new();
    for (from, uses) in edges {
        for to in uses {
            if floors.get(to) > floors.get(from) {
                wrong.push(format!("{from} uses {to}, which is on a higher floor"));
            }
        }
    }
    wrong
}

#[test]
fn the_picture_is_what_cargo_says_and_no_arrow_goes_up() {
    let page = std::fs::read_to_string(root().join("docs/architecture.md")).expect("the page");
    let (floors, edges) = drawn(&page);
    let metadata = MetadataCommand::new()
        .no_deps()
        .exec()
        .expect("cargo metadata");
    let mut real = Edges::new();
    for package in metadata
        .packages
        .iter()
        .filter(|package| package.name.starts_with("auxo"))
    {
        let uses = package.dependencies.iter().filter(|dependency| {
            dependency.kind == DependencyKind::Normal && dependency.name.starts_with("auxo")
        });
        let uses = uses.map(|dependency| dependency.name.clone()).collect();
        real.insert(package.name.to_string(), uses);
    }
    assert_eq!(edges, real, "docs/architecture.md beside cargo metadata");
    assert_eq!(upward(&floors, &edges), Vec::<String>::new());

    let (floors, edges) = drawn("| auxo-a | 0 | auxo-b |\n| auxo-b | 1 | |");
    assert_eq!(upward(&floors, &edges).len(), 1, "the check can fail");
}

/// Lines that use a crate outside the folders that may.
fn uses_outside<'f>(files: &'f [(String, String)], krate: &str, rooms: &[&str]) -> Vec<&'f str> {
    let used = |text: &str| {
        text.lines().any(|line| {
            let line = line.trim_start();
            let uses = line
                .strip_prefix("pub use ")
                .or_else(|| line.strip_prefix("use "));
            uses.is_some_and(|path| path.starts_with(krate))
        })
    };
    let outside = files
        .iter()
        .filter(|(name, text)| !rooms.iter().any(|room| name.starts_with(room)) && used(text));
    outside.map(|(name, _)| name.as_str()).collect()
}

#[test]
fn datafusion_and_openraft_stay_in_their_rooms() {
    let files = files(&[".rs"]);
    let query = ["compute-node/query/", "integration/"];
    assert_eq!(
        uses_outside(&files, "datafusion", &query),
        Vec::<&str>::new()
    );
    let etcd = "meta-service/etcd/src/";
    let raft = [
        format!("{etcd}raft/"),
        format!("{etcd}log/"),
        format!("{etcd}transport/"),
    ];
    let raft: Vec<&str> = raft.iter().map(String::as_str).collect();
    assert_eq!(uses_outside(&files, "openraft", &raft), Vec::<&str>::new());

    let bad = [(
        "sst/src/x.rs".to_owned(),
        "use datafusion::prelude::*;".to_owned(),
    )];
    assert_eq!(uses_outside(&bad, "datafusion", &query), ["sst/src/x.rs"]);
}

fn without_header(files: &[(String, String)]) -> Vec<&str> {
    let headless = files.iter().filter(|(_, text)| !text.starts_with("//!"));
    headless.map(|(name, _)| name.as_str()).collect()
}

#[test]
fn every_source_file_says_what_it_is_for() {
    assert_eq!(without_header(&files(&[".rs"])), Vec::<&str>::new());
    let bad = [("a.rs".to_owned(), "fn main() {}".to_owned())];
    assert_eq!(without_header(&bad), ["a.rs"]);
}

/// Names of files, modules and types that hold a forbidden word.
fn forbidden(files: &[(String, String)]) -> Vec<String> {
    let mut wrong = Vec::new();
    let says_nothing = |name: &str| {
        let mut snake = String::new();
        for letter in name.chars() {
            if letter.is_uppercase() {
                snake.push('_');
            }
            snake.extend(letter.to_lowercase());
        }
        let words: Vec<&str> = snake.split(['_', '-', '.']).collect();
        words.iter().any(|word| FORBIDDEN_WORDS.contains(word)) || words.last() == Some(&"v2")
    };
    for (path, text) in files {
        let name = Path::new(path)
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy();
        if says_nothing(&name) {
            wrong.push(path.clone());
        }
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let named = words.windows(2).find(|pair| {
                matches!(pair[0], "struct" | "enum" | "trait" | "mod") && !line.contains("//")
            });
            if let Some(pair) = named {
                let name: String = pair[1]
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                if says_nothing(&name) {
                    wrong.push(format!("{path}: {name}"));
                }
            }
        }
    }
    wrong
}

#[test]
fn no_name_says_nothing() {
    assert_eq!(forbidden(&files(&[".rs"])), Vec::<String>::new());
    let bad = [(
        "x/util.rs".to_owned(),
        concat!("pub struct Shard", "Manager {").to_owned(),
    )];
    assert_eq!(
        forbidden(&bad),
        ["x/util.rs", concat!("x/util.rs: Shard", "Manager")]
    );
}

/// Lines of manifests and scripts by which a build could lose its fence without being asked to.
fn unfenced(files: &[(String, String)]) -> Vec<String> {
    let declared = ("compute-node/engine/Cargo.toml", "unfenced = []");
    let mut wrong = Vec::new();
    for (name, text) in files {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let turns_on = lines.filter(|line| {
            let all = ["--all-features", "all-features = true"];
            line.contains("unfenced") && (name.as_str(), *line) != declared
                || all.iter().any(|all| line.contains(all))
        });
        wrong.extend(turns_on.map(|line| format!("{name}: {line}")));
    }
    wrong
}

#[test]
fn no_build_loses_its_fence_unasked() {
    assert_eq!(unfenced(&files(&[".toml", "run"])), Vec::<String>::new());
    let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let bad = [
        file("Cargo.toml", "default = [\"auxo-engine/unfenced\"]"),
        file("compute-node/engine/Cargo.toml", "default = [\"unfenced\"]"),
        file(".ci/run", "cargo build --all-features"),
    ];
    assert_eq!(unfenced(&bad).len(), 3);
}

/// Golden files that a format's page names, as paths in backquotes below a `testdata` folder.
fn golden_of(page: &str) -> Vec<&str> {
    page.split('`')
        .filter(|word| word.contains("testdata/") && !word.contains(' '))
        .collect()
}

/// Whether a file of that path is there; behind `*` or `{` anything may follow.
fn is_there(path: &str) -> bool {
    let fixed = path.split(['*', '{']).next().unwrap_or_default();
    if fixed == path {
        return root().join(path).exists();
    }
    let (folder, begins) = fixed.rsplit_once('/').unwrap_or(("", fixed));
    let entries = std::fs::read_dir(root().join(folder))
        .into_iter()
        .flatten()
        .flatten();
    entries
        .into_iter()
        .any(|entry| entry.file_name().to_string_lossy().starts_with(begins))
}

#[test]
fn every_format_has_its_golden_bytes() {
    let mut without = Vec::new();
    for (name, text) in files(&[".md"]) {
        if !name.starts_with("docs/formats/") || name.ends_with("README.md") {
            continue;
        }
        let golden = golden_of(&text);
        let missing = golden.iter().filter(|path| !is_there(path));
        let missing: Vec<&&str> = missing.collect();
        if golden.is_empty() || !missing.is_empty() {
            without.push(format!("{name}: {missing:?}"));
        }
    }
    assert_eq!(without, Vec::<String>::new());
    assert_eq!(
        golden_of("see `a/testdata/b.bin` and `c`"),
        ["a/testdata/b.bin"]
    );
    assert!(golden_of("none").is_empty() && !is_there("docs/testdata/none-{a,b}.bin"));
}

fn missing_from<'a>(page: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    names
        .filter(|name| !page.contains(&format!("`{name}`")))
        .collect()
}

#[test]
fn every_error_and_every_metric_has_its_line() {
    let page = |name: &str| std::fs::read_to_string(root().join(name)).expect("the page");
    let codes = ErrorCode::ALL.iter().map(|code| code.text());
    assert_eq!(
        missing_from(&page("docs/errors.md"), codes),
        Vec::<&str>::new()
    );
    let metrics = auxo_compute_node::metrics::CATALOGUE
        .iter()
        .map(|(name, _, _)| *name);
    assert_eq!(
        missing_from(&page("docs/metrics.md"), metrics),
        Vec::<&str>::new()
    );
    assert_eq!(missing_from("`A`", ["A", "B"].into_iter()), ["B"]);
}

/// Sources that have the folder baked in where they were compiled: a build is kept for checkouts that lie
/// elsewhere, and would look at another one's files.
fn baked(files: &[(String, String)]) -> Vec<&str> {
    let mark = format!("env!(\"{}", "CARGO_MANIFEST_DIR");
    let bad = files.iter().filter(|(_, text)| text.contains(&mark));
    bad.map(|(path, _)| path.as_str()).collect()
}

#[test]
fn no_program_remembers_where_it_was_built() {
    assert_eq!(baked(&files(&[".rs"])), Vec::<&str>::new());
    let text = format!("env!(\"{}\")", "CARGO_MANIFEST_DIR");
    assert_eq!(baked(&[("a.rs".to_owned(), text)]), ["a.rs"]);
}

/// What is not done, or speaks of a machine that readers do not have.
fn unfinished(files: &[(String, String)]) -> Vec<String> {
    let marks = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("#[ig", "nore"),
        concat!("FIX", "ME"),
        concat!("allow(dead", "_code"),
        concat!("/ro", "ot/"),
        concat!("/wo", "rk/"),
    ];
    let mut wrong = Vec::new();
    for (name, text) in files {
        for mark in marks.iter().filter(|mark| text.contains(**mark)) {
            wrong.push(format!("{name}: {mark}"));
        }
    }
    wrong
}

#[test]
fn nothing_is_left_half_done() {
    let endings = [".rs", ".md", ".toml", ".proto", ".py", "run"];
    assert_eq!(unfinished(&files(&endings)), Vec::<String>::new());
    let bad = [("a.rs".to_owned(), concat!("to", "do!()").to_owned())];
    assert_eq!(unfinished(&bad).len(), 1);
}
