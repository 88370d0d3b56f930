//! What begins with a backslash in the shell.

use clap::ValueEnum as _;

use super::Layout;

/// The commands, for people.
pub(super) const HELP: &str = r"\l              databases
\c NAME         use a database
\dt             tables
\d [TABLE]      tables, or the columns of one
\timing [on|off]
\format NAME    table, json, ndjson, csv, tsv, vertical
\q              leave
A statement ends with a semicolon. Ctrl-C stops it, a second one leaves.";

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Leave,
    Help,
    Run(String),
    Timing(Option<bool>),
    Layout(Layout),
    Connect(String),
}

/// Reads a command; a trailing `;` is forgiven.
pub(super) fn parse(typed: &str) -> Result<Command, String> {
    let typed = typed.trim().trim_end_matches(';');
    let (name, argument) = typed.split_once(char::is_whitespace).unwrap_or((typed, ""));
    let argument = argument.trim();
    match (name, argument) {
        (r"\q", "") => Ok(Command::Leave),
        (r"\?" | r"\h", "") => Ok(Command::Help),
        (r"\l", "") => Ok(Command::Run("SHOW DATABASES".to_owned())),
        (r"\dt" | r"\d", "") => Ok(Command::Run("SHOW TABLES".to_owned())),
        (r"\d", table) => Ok(Command::Run(format!("DESCRIBE {}", quoted(table)))),
        (r"\c", database) if !database.is_empty() => Ok(Command::Connect(database.to_owned())),
        (r"\timing", "") => Ok(Command::Timing(None)),
        (r"\timing", "on") => Ok(Command::Timing(Some(true))),
        (r"\timing", "off") => Ok(Command::Timing(Some(false))),
        (r"\format", layout) => match Layout::from_str(layout, true) {
            Ok(layout) => Ok(Command::Layout(layout)),
            Err(_) => Err(format!("there is no format {layout:?}")),
        },
        _ => Err(format!("there is no command {typed:?}")),
    }
}

/// A name as SQL takes it whatever is in it; one that is quoted or qualified is left as it is.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.\"".contains(c);
    match name.chars().all(plain) {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read() {
        let run = |sql: &str| Ok(Command::Run(sql.to_owned()));
        for (typed, expected) in [
            (r"\q", Ok(Command::Leave)),
            (r" \? ", Ok(Command::Help)),
            (r"\l", run("SHOW DATABASES")),
            (r"\dt;", run("SHOW TABLES")),
            (r"\d", run("SHOW TABLES")),
            (r"\d cpu", run("DESCRIBE cpu")),
            (r"\d db.cpu", run("DESCRIBE db.cpu")),
            (r"\d My Table", run("DESCRIBE \"My Table\"")),
            (r"\c devops", Ok(Command::Connect("devops".to_owned()))),
            (r"\timing", Ok(Command::Timing(None))),
            (r"\timing off", Ok(Command::Timing(Some(false)))),
            (r"\format CSV", Ok(Command::Layout(Layout::Csv))),
            (r"\format xml", Err("there is no format \"xml\"".to_owned())),
            (r"\c", Err("there is no command \"\\\\c\"".to_owned())),
            (
                r"\nope x",
                Err("there is no command \"\\\\nope x\"".to_owned()),
            ),
        ] {
            assert_eq!(parse(typed), expected, "{typed}");
        }
    }
}
