//! The shell: reads statements and commands from a terminal until it is left.
//!
//! Ctrl-C while a statement runs stops it on the node; a second one leaves. At the prompt it drops
//! what was typed; Ctrl-D leaves. The line editor blocks, so each line is read on a thread of the
//! runtime's own for that.

use std::borrow::Cow;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use auxo_client::Client;
use reedline::{
    ColumnarMenu, Emacs, FileBackedHistory, KeyCode, KeyModifiers, MenuBuilder as _, Prompt,
    PromptEditMode, PromptHistorySearch, Reedline, ReedlineEvent, ReedlineMenu, Signal,
    ValidationResult, Validator, default_emacs_keybindings,
};

use super::commands::{self, Command};
use super::complete::{Names, Words};
use super::{Asking, split, statement};
use crate::environment::Environment;
use crate::exit::{Cancelled, Exit};
use crate::interrupt::Interrupts;
use crate::output::{Output, notice};
use crate::report;

/// Lines the history keeps.
const HISTORY_LINES: usize = 10_000;

/// Runs the shell.
pub(super) async fn run(
    client: &Client,
    asking: Asking,
    environment: &Environment,
) -> anyhow::Result<Exit> {
    let names = Names::default();
    let mut shell = Shell {
        client: client.clone(),
        asking,
        interrupts: Interrupts::listen()?,
        output: Output::stdout(),
        names: names.clone(),
    };
    let mut editor = editor(names, history_file(environment).as_deref())?;
    if !shell.asking.saying.quiet {
        notice(format_args!("{}; \\? for help, \\q to leave", client.url()));
    }
    shell.names.refresh(client).await;
    loop {
        let prompt = SqlPrompt(shell.client.database().to_owned());
        let read = tokio::task::spawn_blocking(move || {
            let signal = editor.read_line(&prompt);
            (editor, signal)
        });
        let signal;
        (editor, signal) = read.await.context("line editor")?;
        let typed = match signal.context("terminal")? {
            Signal::Success(typed) => typed,
            Signal::CtrlC => continue,
            _ => return Ok(Exit::Done),
        };
        let left = match typed.trim_start().starts_with('\\') {
            true => shell.command(&typed).await?,
            false => shell.statements(&typed).await?,
        };
        if let Some(exit) = left {
            return Ok(exit);
        }
    }
}

struct Shell {
    client: Client,
    asking: Asking,
    interrupts: Interrupts,
    output: Output,
    names: Names,
}

impl Shell {
    /// Carries a command out; says how the shell ends if it does.
    async fn command(&mut self, typed: &str) -> anyhow::Result<Option<Exit>> {
        match commands::parse(typed) {
            Ok(Command::Leave) => return Ok(Some(Exit::Done)),
            Ok(Command::Help) => notice(format_args!("{}", commands::HELP)),
            Ok(Command::Timing(wanted)) => {
                self.asking.timing = wanted.unwrap_or(!self.asking.timing);
                let state = if self.asking.timing { "on" } else { "off" };
                notice(format_args!("timing is {state}"));
            }
            Ok(Command::Layout(layout)) => self.asking.layout = layout,
            Ok(Command::Connect(database)) => {
                self.client = self.client.with_database(database);
                self.names.refresh(&self.client).await;
            }
            Ok(Command::Run(sql)) => return self.statements(&sql).await,
            Err(wrong) => notice(format_args!("error: {wrong}; \\? for help")),
        }
        Ok(None)
    }

    /// Runs statements up to the first that fails; says how the shell ends if it does.
    async fn statements(&mut self, typed: &str) -> anyhow::Result<Option<Exit>> {
        for statement in split::statements(typed) {
            let shown = statement::run(
                &self.client,
                statement,
                &self.asking,
                &mut self.interrupts,
                &mut self.output,
            );
            let shown = shown.await;
            self.output.finish()?;
            match shown {
                Ok(told) => told.iter().for_each(|line| notice(format_args!("{line}"))),
                Err(error) => {
                    let exit =
                        report::report(&error, Some(statement), self.asking.saying.json_errors);
                    let left = matches!(error.downcast_ref(), Some(Cancelled { confirmed: false }));
                    return Ok(left.then_some(exit));
                }
            }
            if changes_names(statement) {
                self.names.refresh(&self.client).await;
            }
        }
        Ok(None)
    }
}

fn changes_names(statement: &str) -> bool {
    let verb = statement.split_whitespace().next().unwrap_or_default();
    ["CREATE", "DROP", "ALTER"]
        .iter()
        .any(|ddl| verb.eq_ignore_ascii_case(ddl))
}

fn editor(names: Names, history: Option<&Path>) -> anyhow::Result<Reedline> {
    let mut keys = default_emacs_keybindings();
    let complete = ReedlineEvent::UntilFound(vec![
        ReedlineEvent::Menu("names".to_owned()),
        ReedlineEvent::MenuNext,
    ]);
    keys.add_binding(KeyModifiers::NONE, KeyCode::Tab, complete);
    let menu = Box::new(ColumnarMenu::default().with_name("names"));
    let mut editor = Reedline::create()
        .with_validator(Box::new(Whole))
        .with_completer(Box::new(Words::of(names)))
        .with_menu(ReedlineMenu::EngineCompleter(menu))
        .with_edit_mode(Box::new(Emacs::new(keys)))
        .with_quick_completions(true)
        .with_partial_completions(true)
        .with_ansi_colors(false);
    if let Some(file) = history {
        // A history that cannot be kept is no reason not to start.
        match keep_private(file)
            .and_then(|()| Ok(FileBackedHistory::with_file(HISTORY_LINES, file.into())?))
        {
            Ok(kept) => editor = editor.with_history(Box::new(kept)),
            Err(error) => notice(format_args!(
                "note: no history: {}: {error:#}",
                file.display()
            )),
        }
    }
    Ok(editor)
}

/// `~/.local/state/auxo/history`, or where the system keeps such files.
fn history_file(environment: &Environment) -> Option<PathBuf> {
    let state = match environment.get("XDG_STATE_HOME") {
        Some(state) if !state.is_empty() => PathBuf::from(state),
        _ => Path::new(environment.get("HOME")?).join(".local/state"),
    };
    Some(state.join("auxo/history"))
}

/// Statements hold values: nobody else reads the file.
fn keep_private(file: &Path) -> anyhow::Result<()> {
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let mut how = std::fs::OpenOptions::new();
    how.create(true).append(true).mode(0o600).open(file)?;
    Ok(())
}

/// A line is read on until its statements have ended.
struct Whole;

impl Validator for Whole {
    fn validate(&self, typed: &str) -> ValidationResult {
        match typed.trim_start().starts_with('\\') || split::is_whole(typed) {
            true => ValidationResult::Complete,
            false => ValidationResult::Incomplete,
        }
    }
}

/// The database, as `main> `.
struct SqlPrompt(String);

impl Prompt for SqlPrompt {
    fn render_prompt_left(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.0)
    }

    fn render_prompt_right(&self) -> Cow<'_, str> {
        Cow::Borrowed("")
    }

    fn render_prompt_indicator(&self, _mode: PromptEditMode) -> Cow<'_, str> {
        Cow::Borrowed("> ")
    }

    fn render_prompt_multiline_indicator(&self) -> Cow<'_, str> {
        Cow::Borrowed("... ")
    }

    fn render_prompt_history_search_indicator(&self, search: PromptHistorySearch) -> Cow<'_, str> {
        Cow::Owned(format!("(history: {}) ", search.term))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_is_where_the_system_keeps_state() {
        let at =
            |variables: &[(&str, &str)]| history_file(&Environment::of(variables.iter().copied()));
        let home = ("HOME", "/h");
        assert_eq!(at(&[home]), Some("/h/.local/state/auxo/history".into()));
        assert_eq!(
            at(&[home, ("XDG_STATE_HOME", "/s")]),
            Some("/s/auxo/history".into())
        );
        assert_eq!(at(&[]), None);
    }

    #[test]
    fn the_history_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("deeper/history");
        keep_private(&file).unwrap();
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }

    #[test]
    fn only_ddl_changes_names() {
        assert!(changes_names("create table x"));
        assert!(!changes_names("SELECT 1"));
    }
}
