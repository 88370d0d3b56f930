//! A statement's words, and what may be refused before a parser sees them.
//!
//! Everything here is one pass over the text or its tokens: a statement that is too large, nested
//! too deeply or too long a chain costs time in proportion to its text and no stack.

use auxo_proto::error::{ErrorCode, Failure, Position};
use auxo_proto::schema::NAME_BYTES_MAX;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

/// Parentheses, brackets and CASEs that may be open at once.
const DEPTH_MAX: usize = 50;
const TOKENS_MAX: usize = 50_000;
/// Parentheses that may stand directly inside another one in FROM, all those around a place counted:
/// the parser tries each of them as a query and as a join, so each doubles its work.
const DOUBLED_MAX: usize = 6;
/// Calls of [`SPECIAL`] functions that may stand inside each other: the parser tries each in two ways.
const SPECIAL_MAX: usize = 8;
/// Subqueries in expressions that may stand inside each other: each doubles the planner's work.
const SUBQUERIES_MAX: usize = 6;
/// Keywords, or signs, that may follow each other; the parser calls itself for each of some of them.
const ROW_MAX: usize = 32;
/// `ARRAY<` and its like in one statement.
const ANGLES_MAX: usize = 16;
/// Operators in one expression on one level.
const CHAIN_MAX: usize = 2_000;
/// UNION, EXCEPT and INTERSECT on one level.
const SET_OPERATORS_MAX: usize = 256;
const IN_LIST_MAX: usize = 10_000;
/// Expressions that SELECT, GROUP BY or ORDER BY may list.
const LISTED_MAX: usize = 1_000;
const JOINS_MAX: usize = 32;

/// Where a token begins in the text.
pub(crate) fn position(text: &str, location: Location) -> Position {
    let line = usize::try_from(location.line).unwrap_or(usize::MAX);
    let column = usize::try_from(location.column).unwrap_or(usize::MAX);
    match line {
        0 => Position::of_offset(text, text.trim_end().len()),
        _ => Position::of_line_column(text, line, column),
    }
}

/// One statement's words, without blanks, comments and the closing semicolon.
pub(crate) struct Words {
    pub(crate) tokens: Vec<TokenWithSpan>,
    /// Levels of parentheses, brackets and CASEs.
    pub(crate) depth: usize,
}

/// Reads the words of one statement.
///
/// * bytes_max: bytes that the text may have.
/// * errors: the text is above a limit, cannot be read, or holds no or several statements.
pub(crate) fn read(text: &str, bytes_max: usize) -> Result<Words, Failure> {
    if text.len() > bytes_max {
        let detail = format!(
            "statement has {} bytes, the limit is {bytes_max}",
            text.len()
        );
        return Err(Failure::new(ErrorCode::StatementTooLarge, detail));
    }
    let mut tokens = Vec::new();
    Tokenizer::new(&GenericDialect {}, text)
        .tokenize_with_location_into_buf(&mut tokens)
        .map_err(|error| {
            let detail = error.message.to_lowercase();
            Failure::new(ErrorCode::Parse, detail).at(position(text, error.location))
        })?;
    tokens.retain(|token| !matches!(token.token, Token::Whitespace(_)));
    let semicolon = |token: &TokenWithSpan| token.token == Token::SemiColon;
    let begin = tokens.iter().take_while(|token| semicolon(token)).count();
    tokens.drain(..begin);
    while tokens.last().is_some_and(semicolon) {
        tokens.pop();
    }
    if tokens.is_empty() {
        return Err(Failure::new(ErrorCode::Parse, "there is no statement")
            .at(Position::of_offset(text, 0)));
    }
    if let Some(at) = tokens.iter().position(semicolon) {
        let next = tokens[at..].iter().find(|token| !semicolon(token));
        let place = next.map_or(tokens[at].span.start, |token| token.span.start);
        let failure = Failure::new(
            ErrorCode::MultipleStatements,
            "the text holds more than one statement",
        );
        return Err(failure
            .at(position(text, place))
            .hint("send them one after the other"));
    }
    let depth = check(&tokens, text)?;
    Ok(Words { tokens, depth })
}

/// What is counted while one parenthesis is open.
#[derive(Default)]
struct Level {
    closes: Option<Token>,
    chain: usize,
    set_operators: usize,
    in_list: bool,
    /// The clause it is in, outside of other levels, and the commas in it.
    clause: Option<Keyword>,
    items: usize,
    /// Whether what stands in it, outside of other levels, is what FROM lists.
    in_from: bool,
    /// Doubled parentheses in FROM, it and those around it.
    doubled: usize,
    /// Calls of special functions, it and those around it.
    special: usize,
    /// Subqueries in expressions, it and those around it.
    subqueries: usize,
}

/// Functions with a grammar of their own, which the parser also tries as plain functions.
const SPECIAL: [Keyword; 12] = [
    Keyword::ARRAY,
    Keyword::CAST,
    Keyword::CEIL,
    Keyword::CONVERT,
    Keyword::EXTRACT,
    Keyword::FLOOR,
    Keyword::OVERLAY,
    Keyword::POSITION,
    Keyword::SAFE_CAST,
    Keyword::SUBSTR,
    Keyword::SUBSTRING,
    Keyword::TRY_CAST,
];

impl Level {
    /// The level that a token opens inside this one.
    fn opened(
        &self,
        closes: Token,
        before: Option<&Token>,
        token: &Token,
        next: Option<&Token>,
    ) -> Self {
        let paren = *token == Token::LParen;
        let word = before.and_then(keyword);
        let in_from = self.in_from && paren;
        let query = matches!(
            next.and_then(keyword),
            Some(Keyword::SELECT | Keyword::WITH | Keyword::VALUES)
        );
        let doubled = in_from && before == Some(&Token::LParen);
        let special = paren && word.is_some_and(|word| SPECIAL.contains(&word));
        let subquery = paren && query && !in_from && word != Some(Keyword::AS);
        Self {
            closes: Some(closes),
            in_list: word == Some(Keyword::IN),
            in_from,
            doubled: self.doubled + usize::from(doubled),
            special: self.special + usize::from(special),
            subqueries: self.subqueries + usize::from(subquery),
            ..Self::default()
        }
    }
}

fn keyword(token: &Token) -> Option<Keyword> {
    match token {
        Token::Word(word) if word.quote_style.is_none() => Some(word.keyword),
        _ => None,
    }
}

/// Says how many levels deep the statement goes.
fn check(tokens: &[TokenWithSpan], text: &str) -> Result<usize, Failure> {
    let refuse = |at: usize, detail: String| {
        let place = position(text, tokens[at].span.start);
        Err(Failure::new(ErrorCode::TooComplex, detail).at(place))
    };
    if tokens.len() > TOKENS_MAX {
        let detail = format!(
            "statement has {} words, the limit is {TOKENS_MAX}",
            tokens.len()
        );
        return refuse(TOKENS_MAX, detail);
    }
    let mut levels = vec![Level::default()];
    let (mut joins, mut deepest, mut angles) = (0, 0, 0);
    let (mut words_in_row, mut signs_in_row) = (0, 0);
    for (at, TokenWithSpan { token, .. }) in tokens.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| &tokens[before].token);
        let word = keyword(token);
        words_in_row = match word {
            Some(word) if word != Keyword::NoKeyword => words_in_row + 1,
            _ => 0,
        };
        signs_in_row = match operator(token, None) {
            true => signs_in_row + 1,
            false => 0,
        };
        if words_in_row.max(signs_in_row) > ROW_MAX {
            let detail = format!("more than {ROW_MAX} keywords or signs stand in a row");
            return refuse(at, detail);
        }
        // A planner that does not know a name holds it against all that it knows.
        if let Token::Word(name) = token
            && name.value.len() > NAME_BYTES_MAX
        {
            let place = position(text, tokens[at].span.start);
            let detail = format!(
                "a name has {} bytes, the limit is {NAME_BYTES_MAX}",
                name.value.len()
            );
            let failure = Failure::new(ErrorCode::BadRequest, detail).at(place);
            return Err(match name.quote_style {
                Some(_) => failure.hint("strings stand in single quotes"),
                None => failure,
            });
        }
        if let Token::Number(digits, _) = token
            && digits.parse().is_ok_and(f64::is_infinite)
        {
            let place = position(text, tokens[at].span.start);
            let detail = format!("{digits} is too large for a number");
            return Err(Failure::new(ErrorCode::ValueOutOfRange, detail).at(place));
        }
        let typed = matches!(
            before.and_then(keyword),
            Some(Keyword::ARRAY | Keyword::STRUCT | Keyword::MAP)
        );
        angles += usize::from(typed && *token == Token::Lt);
        if angles > ANGLES_MAX {
            return refuse(
                at,
                format!("more than {ANGLES_MAX} types are made of types"),
            );
        }
        let opens = match (token, word) {
            (Token::LParen, _) => Some(Token::RParen),
            (Token::LBracket, _) => Some(Token::RBracket),
            (Token::LBrace, _) => Some(Token::RBrace),
            (_, Some(Keyword::CASE)) => Some(Token::make_keyword("END")),
            _ => None,
        };
        if let Some(closes) = opens {
            if levels.len() > DEPTH_MAX {
                let detail = format!("statement is nested more than {DEPTH_MAX} levels deep");
                return refuse(at, detail);
            }
            let next = tokens.get(at + 1).map(|next| &next.token);
            let level = levels[levels.len() - 1].opened(closes, before, token, next);
            let (doubled, special, subqueries) = (level.doubled, level.special, level.subqueries);
            if doubled > DOUBLED_MAX {
                let detail = format!("FROM has more than {DOUBLED_MAX} doubled parentheses");
                return refuse(at, detail);
            }
            if special > SPECIAL_MAX {
                let detail = format!("more than {SPECIAL_MAX} CASTs or their like are nested");
                return refuse(at, detail);
            }
            if subqueries > SUBQUERIES_MAX {
                let detail = format!("more than {SUBQUERIES_MAX} subqueries are nested");
                return refuse(at, detail);
            }
            levels.push(level);
            deepest = deepest.max(levels.len() - 1);
            continue;
        }
        let last = levels.len() - 1;
        let level = &mut levels[last];
        let closed = level.closes.as_ref();
        if closed.is_some_and(|closes| same(closes, token)) {
            levels.pop();
            continue;
        }
        // `IS DISTINCT FROM` compares.
        let compares = before.and_then(keyword) == Some(Keyword::DISTINCT);
        let clause = word.filter(|word| CLAUSES.contains(word) && !compares);
        if let Some(word) = clause {
            level.in_from = matches!(word, Keyword::FROM | Keyword::JOIN);
            level.clause = Some(word);
            level.chain = 0;
            level.items = 0;
        }
        match (token, word) {
            (Token::Comma, _) => {
                level.chain = 0;
                level.items += 1;
                joins += usize::from(level.clause == Some(Keyword::FROM));
                if joins > JOINS_MAX {
                    return refuse(at, format!("statement has more than {JOINS_MAX} joins"));
                }
                let listing = matches!(
                    level.clause,
                    Some(Keyword::SELECT | Keyword::GROUP | Keyword::ORDER)
                );
                if level.in_list && level.items >= IN_LIST_MAX {
                    return refuse(at, format!("IN list has more than {IN_LIST_MAX} values"));
                }
                if listing && level.items >= LISTED_MAX {
                    let detail = format!("more than {LISTED_MAX} expressions are listed");
                    return refuse(at, detail);
                }
            }
            (_, Some(Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT)) => {
                level.chain = 0;
                level.set_operators += 1;
                if level.set_operators > SET_OPERATORS_MAX {
                    let detail =
                        format!("more than {SET_OPERATORS_MAX} set operators stand on one level");
                    return refuse(at, detail);
                }
            }
            (_, Some(Keyword::JOIN)) => {
                joins += 1;
                if joins > JOINS_MAX {
                    return refuse(at, format!("statement has more than {JOINS_MAX} joins"));
                }
            }
            (token, word) if operator(token, word) => {
                level.chain += 1;
                if level.chain > CHAIN_MAX {
                    let detail = format!("expression chains more than {CHAIN_MAX} operators");
                    return refuse(at, detail);
                }
            }
            _ => {}
        }
    }
    Ok(deepest)
}

/// Keywords behind which another expression begins.
const CLAUSES: [Keyword; 15] = [
    Keyword::SELECT,
    Keyword::FROM,
    Keyword::JOIN,
    Keyword::WHERE,
    Keyword::GROUP,
    Keyword::HAVING,
    Keyword::ORDER,
    Keyword::LIMIT,
    Keyword::OFFSET,
    Keyword::ON,
    Keyword::WHEN,
    Keyword::THEN,
    Keyword::ELSE,
    Keyword::VALUES,
    Keyword::SET,
];

fn same(closes: &Token, token: &Token) -> bool {
    match (closes, token) {
        (Token::Word(_), Token::Word(word)) => {
            word.quote_style.is_none() && word.keyword == Keyword::END
        }
        (closes, token) => closes == token,
    }
}

fn operator(token: &Token, word: Option<Keyword>) -> bool {
    let by_word = matches!(
        word,
        Some(
            Keyword::AND
                | Keyword::OR
                | Keyword::NOT
                | Keyword::XOR
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::IS
                | Keyword::BETWEEN
                | Keyword::COLLATE
        )
    );
    let by_sign = !matches!(
        token,
        Token::EOF
            | Token::Word(_)
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::Placeholder(_)
            | Token::Comma
            | Token::SemiColon
            | Token::LParen
            | Token::RParen
            | Token::LBracket
            | Token::RBracket
            | Token::LBrace
            | Token::RBrace
    );
    by_word || by_sign
}
