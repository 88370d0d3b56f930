//! What a run found: lines at its end, and one JSON object.

use serde_json::{Map, Value};

/// Collects what the parts find.
#[derive(Debug, Default)]
pub(crate) struct Report {
    parts: Map<String, Value>,
    lines: Vec<String>,
    void: Vec<String>,
}

impl Report {
    /// Adds a part under its name.
    pub(crate) fn add(&mut self, name: &str, part: Value) {
        self.parts.insert(name.to_owned(), part);
    }

    /// Adds a line that is printed at the end.
    pub(crate) fn line(&mut self, line: String) {
        self.lines.push(line);
    }

    /// Says why the figures must not be used.
    pub(crate) fn void(&mut self, why: String) {
        println!("VOID: {why}");
        self.void.push(why);
    }

    /// Prints the lines and returns everything.
    pub(crate) fn finish(mut self) -> Value {
        for why in &self.void {
            println!("VOID: {why}");
        }
        let mark = if self.void.is_empty() { "" } else { "(void) " };
        for line in &self.lines {
            println!("{mark}{line}");
        }
        self.add("lines", self.lines.clone().into());
        self.add("void", self.void.clone().into());
        self.parts.into()
    }
}
