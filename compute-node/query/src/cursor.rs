//! Walks over the words of a statement that has a grammar of our own.
//!
//! Never here: what the words mean, or a limit on them (`tokens`).

use auxo_proto::error::{ErrorCode, Failure, Position};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use crate::tokens::position;

/// Walks over the words of a statement that has a grammar of our own.
pub(crate) struct Cursor<'a> {
    tokens: &'a [TokenWithSpan],
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// A cursor before the first word.
    pub(crate) fn new(tokens: &'a [TokenWithSpan], text: &'a str) -> Self {
        Self {
            tokens,
            text,
            at: 0,
        }
    }

    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at).map(|token| &token.token)
    }

    fn peek_word(&self) -> Option<&'a Word> {
        match self.peek() {
            Some(Token::Word(word)) => Some(word),
            _ => None,
        }
    }

    /// Where the next word begins.
    pub(crate) fn position(&self) -> Position {
        match self.tokens.get(self.at) {
            Some(token) => position(self.text, token.span.start),
            None => Position::of_offset(self.text, self.text.trim_end().len()),
        }
    }

    /// Whether the next words are these, in any case; does not move.
    pub(crate) fn sees(&self, words: &str) -> bool {
        let mut at = self.at;
        words.split(' ').all(|wanted| {
            let seen = match self.tokens.get(at).map(|token| &token.token) {
                Some(Token::Word(word)) => {
                    word.quote_style.is_none() && word.value.eq_ignore_ascii_case(wanted)
                }
                _ => false,
            };
            at += 1;
            seen
        })
    }

    /// Whether a parenthesis comes next.
    pub(crate) fn sees_paren(&self) -> bool {
        self.peek() == Some(&Token::LParen)
    }

    /// Takes these words if they come next.
    pub(crate) fn takes(&mut self, words: &str) -> bool {
        let seen = self.sees(words);
        if seen {
            self.at += words.split(' ').count();
        }
        seen
    }

    /// Takes the sign if it comes next.
    pub(crate) fn takes_sign(&mut self, sign: &Token) -> bool {
        let seen = self.peek() == Some(sign);
        self.at += usize::from(seen);
        seen
    }

    /// Takes these words.
    ///
    /// * errors: something else comes next.
    pub(crate) fn word(&mut self, words: &str) -> Result<(), Failure> {
        match self.takes(words) {
            true => Ok(()),
            false => Err(self.expected(words)),
        }
    }

    /// Takes the sign.
    ///
    /// * errors: something else comes next.
    pub(crate) fn sign(&mut self, sign: &Token) -> Result<(), Failure> {
        match self.takes_sign(sign) {
            true => Ok(()),
            false => Err(self.expected(&sign.to_string())),
        }
    }

    /// Takes a name: as written in quotes, else in lower case.
    ///
    /// * errors: something else comes next.
    pub(crate) fn name(&mut self, what: &str) -> Result<String, Failure> {
        match self.peek_word() {
            Some(word) if word.quote_style.is_some() => {
                self.at += 1;
                Ok(word.value.clone())
            }
            Some(word) => {
                self.at += 1;
                Ok(word.value.to_lowercase())
            }
            None => Err(self.expected(what)),
        }
    }

    /// Takes a name that may be qualified, its parts from left to right.
    pub(crate) fn names(&mut self, what: &str) -> Result<Vec<String>, Failure> {
        let mut names = vec![self.name(what)?];
        while self.takes_sign(&Token::Period) {
            names.push(self.name(what)?);
        }
        Ok(names)
    }

    /// Takes names in parentheses.
    pub(crate) fn list(&mut self, what: &str) -> Result<Vec<(String, Position)>, Failure> {
        self.sign(&Token::LParen)?;
        let mut names = Vec::new();
        loop {
            let place = self.position();
            names.push((self.name(what)?, place));
            if !self.takes_sign(&Token::Comma) {
                break;
            }
        }
        self.sign(&Token::RParen)?;
        Ok(names)
    }

    /// Takes a whole number.
    pub(crate) fn number<T: std::str::FromStr>(&mut self, what: &str) -> Result<T, Failure> {
        match self.peek() {
            Some(Token::Number(digits, _)) => match digits.parse() {
                Ok(number) => {
                    self.at += 1;
                    Ok(number)
                }
                Err(_) => Err(self.expected(what)),
            },
            _ => Err(self.expected(what)),
        }
    }

    /// Takes a value of an option: text in quotes, a number or a word.
    pub(crate) fn value(&mut self, what: &str) -> Result<String, Failure> {
        let value = match self.peek() {
            Some(Token::SingleQuotedString(text)) => text.clone(),
            Some(Token::Number(digits, _)) => digits.clone(),
            Some(Token::Word(word)) => word.value.clone(),
            _ => return Err(self.expected(what)),
        };
        self.at += 1;
        Ok(value)
    }

    /// Takes text in single quotes if it comes next.
    pub(crate) fn takes_text(&mut self) -> Option<String> {
        match self.peek() {
            Some(Token::SingleQuotedString(text)) => {
                self.at += 1;
                Some(text.clone())
            }
            _ => None,
        }
    }

    /// Whether no word is left.
    pub(crate) fn is_done(&self) -> bool {
        self.at >= self.tokens.len()
    }

    /// Makes sure no word is left.
    pub(crate) fn done(&self) -> Result<(), Failure> {
        match self.is_done() {
            true => Ok(()),
            false => Err(self.expected("the end of the statement")),
        }
    }

    /// A failure that says what should stand here, and what does.
    pub(crate) fn expected(&self, what: &str) -> Failure {
        let found = self.peek().map_or("the end".into(), Token::to_string);
        let detail = format!("expected {what}, found {found}");
        Failure::new(ErrorCode::Parse, detail).at(self.position())
    }

    /// A failure at the next word.
    pub(crate) fn failure(&self, code: ErrorCode, detail: impl Into<String>) -> Failure {
        Failure::new(code, detail).at(self.position())
    }
}
