//! Where a statement ends: at a `;` outside of quotes and comments.
//!
//! Knows strings ('', "", $tag$…$tag$) and comments (--, nested /* */) and nothing else of SQL;
//! what is inside a statement is the node's business.

/// Where scanning stands after some text.
#[derive(Clone, Copy)]
enum State<'a> {
    Plain,
    /// Inside quotes that this character closes.
    Quoted(char),
    /// Inside a `$tag$` string that this tag closes.
    Dollar(&'a str),
    LineComment,
    /// Inside so many levels of `/*`.
    BlockComment(usize),
}

/// The statements of a script, without their `;` and the white space around them; those that hold
/// nothing but comments are left out.
pub(crate) fn statements(script: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(script);
    std::iter::from_fn(move || {
        loop {
            let text = rest?;
            let Scan { end, has_words, .. } = scan(text);
            let statement = match end {
                Some(end) => {
                    rest = Some(&text[end + 1..]);
                    &text[..end]
                }
                None => {
                    rest = None;
                    text
                }
            };
            if has_words {
                return Some(statement.trim());
            }
        }
    })
}

/// Whether a text that is being typed is whole: every statement in it is ended, and nothing that
/// was opened is left open. A text without any word is whole too.
pub(crate) fn is_whole(text: &str) -> bool {
    let mut rest = text;
    loop {
        let Scan {
            end,
            has_words,
            state,
        } = scan(rest);
        match end {
            Some(end) => rest = &rest[end + 1..],
            None => return !has_words && matches!(state, State::Plain | State::LineComment),
        }
    }
}

struct Scan<'a> {
    /// Where the first `;` stands that ends a statement.
    end: Option<usize>,
    /// Whether there is anything but white space and comments before it.
    has_words: bool,
    state: State<'a>,
}

fn scan(text: &str) -> Scan<'_> {
    let mut state = State::Plain;
    let mut has_words = false;
    let mut at = 0;
    while let Some(character) = text[at..].chars().next() {
        let rest = &text[at..];
        // How many bytes are understood together.
        let mut taken = character.len_utf8();
        state = match state {
            State::Plain if character == ';' => {
                return Scan {
                    end: Some(at),
                    has_words,
                    state: State::Plain,
                };
            }
            State::Plain if rest.starts_with("--") => State::LineComment,
            State::Plain if rest.starts_with("/*") => {
                taken = 2;
                State::BlockComment(1)
            }
            State::Plain => {
                has_words |= !character.is_whitespace();
                match (character, dollar_tag(&text[..at], rest)) {
                    ('\'' | '"', _) => State::Quoted(character),
                    (_, Some(tag)) => {
                        taken = tag.len();
                        State::Dollar(tag)
                    }
                    _ => State::Plain,
                }
            }
            // A doubled quote closes and opens again, which comes to the same.
            State::Quoted(quote) if character == quote => State::Plain,
            State::Dollar(tag) if rest.starts_with(tag) => {
                taken = tag.len();
                State::Plain
            }
            State::LineComment if character == '\n' => State::Plain,
            State::BlockComment(depth) if rest.starts_with("/*") => {
                taken = 2;
                State::BlockComment(depth + 1)
            }
            State::BlockComment(depth) if rest.starts_with("*/") => {
                taken = 2;
                match depth {
                    1 => State::Plain,
                    _ => State::BlockComment(depth - 1),
                }
            }
            inside => inside,
        };
        at += taken;
    }
    Scan {
        end: None,
        has_words,
        state,
    }
}

/// The `$tag$` a string begins with here; a `$` within a name, and `$1`, begin none.
fn dollar_tag<'a>(before: &str, rest: &'a str) -> Option<&'a str> {
    let in_name = |c: char| c.is_alphanumeric() || c == '_';
    let name = rest.strip_prefix('$')?;
    if before.ends_with(in_name) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let end = name.find(|c| !in_name(c))?;
    name[end..].starts_with('$').then(|| &rest[..end + 2])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(script: &str, expected: &[&str], whole: bool) {
        assert_eq!(statements(script).collect::<Vec<_>>(), expected);
        assert_eq!(is_whole(script), whole, "{script}");
    }

    #[test]
    fn a_statement_ends_at_its_semicolon() {
        check("SELECT 1", &["SELECT 1"], false);
        check("SELECT 1;", &["SELECT 1"], true);
        check(
            " SELECT 1 ;; SELECT 2\n;\n",
            &["SELECT 1", "SELECT 2"],
            true,
        );
        check("SELECT 1; SELECT", &["SELECT 1", "SELECT"], false);
        check("", &[], true);
        check(" ; ", &[], true);
    }

    #[test]
    fn quotes_and_comments_hide_semicolons() {
        check("SELECT ';' || 'it''s;';", &["SELECT ';' || 'it''s;'"], true);
        check("SELECT \";\";", &["SELECT \";\""], true);
        check("SELECT 1 -- ; not yet\n;", &["SELECT 1 -- ; not yet"], true);
        check(
            "SELECT /* ; /* ; */ ; */ 1;",
            &["SELECT /* ; /* ; */ ; */ 1"],
            true,
        );
        check("SELECT $$;$$;", &["SELECT $$;$$"], true);
        check("SELECT $t$ $$; $t$;", &["SELECT $t$ $$; $t$"], true);
        check("SELECT $1, a$b;c$;", &["SELECT $1, a$b", "c$"], true);
        check("-- only this", &[], true);
        check("/* only this */ ;", &[], true);
    }

    #[test]
    fn what_is_open_is_not_whole() {
        check("SELECT ';", &["SELECT ';"], false);
        check("/* ;", &[], false);
        check("SELECT $$;", &["SELECT $$;"], false);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(script in "[;'\"$a1é/*\\-\\n ]{0,40}") {
            let found: Vec<_> = statements(&script).collect();
            for statement in found {
                prop_assert!(script.contains(statement));
            }
            let _ = is_whole(&script);
        }
    }
}
