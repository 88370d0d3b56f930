//! The kinds of failure, and the numbered catalogue that every door translates.
//!
//! A kind decides the HTTP status, gRPC code and SQLSTATE class, which only `protocols` knows. A
//! code names the failure for programs; its number is never reused.

use serde::{Deserialize, Serialize};

/// What sort of failure it is; decides whether a caller may try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request is wrong as it stands: parse, plan, type, unknown name inside a statement.
    Invalid,
    /// Nobody we know.
    Auth,
    /// Known, but not allowed.
    Denied,
    /// A resource named by a URL does not exist.
    Missing,
    /// Exists already, or clashes with something that does.
    Conflict,
    /// Above a limit; smaller pieces may pass.
    TooLarge,
    /// The tenant's own quota is used up for now.
    Throttled,
    /// Nobody can do it at the moment: no leader, full queues, a service away.
    Unavailable,
    /// The statement's time ran out.
    Deadline,
    /// The caller went away or asked to stop.
    Cancelled,
    /// A bug.
    Internal,
}

/// What became of a write that was answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Durable.
    Ok,
    /// Certainly in no state, now or ever.
    Rejected,
    /// May be in the log: send again with the same batch id.
    Unknown,
    /// Some lines or shards took it, some did not.
    Partial,
}

macro_rules! codes {
    ($($number:literal $name:ident $text:literal $kind:ident $title:literal;)*) => {
        /// Name of a failure for programs. Numbers and texts are never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $(#[doc = $title] $name,)*
        }

        impl ErrorCode {
            /// Every code, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The stable number.
            pub fn number(self) -> u16 {
                match self { $(Self::$name => $number,)* }
            }

            /// The code with that number, if this release knows it.
            pub fn of_number(number: u32) -> Option<Self> {
                let known = Self::ALL.iter().copied();
                known.into_iter().find(|code| u32::from(code.number()) == number)
            }

            /// The stable text.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What sort of failure it is.
            pub fn kind(self) -> ErrorKind {
                match self { $(Self::$name => ErrorKind::$kind,)* }
            }

            /// One short sentence for people.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    1001 Parse "PARSE_ERROR" Invalid "Statement cannot be parsed";
    1002 MultipleStatements "MULTIPLE_STATEMENTS" Invalid "One statement a request";
    1003 Unsupported "UNSUPPORTED" Invalid "Not supported";
    1004 Plan "PLAN_ERROR" Invalid "Statement cannot be planned";
    1005 BadParameter "BAD_PARAMETER" Invalid "Parameter missing or of the wrong type";
    1006 BadRequest "BAD_REQUEST" Invalid "Request is malformed";
    1007 TooComplex "STATEMENT_TOO_COMPLEX" Invalid "Statement is nested too deeply or too large";
    1201 DatabaseNotFound "DATABASE_NOT_FOUND" Invalid "Database not found";
    1202 TableNotFound "TABLE_NOT_FOUND" Invalid "Table not found";
    1203 ColumnNotFound "COLUMN_NOT_FOUND" Invalid "Column not found";
    1204 FunctionNotFound "FUNCTION_NOT_FOUND" Invalid "Function not found";
    1205 TypeMismatch "TYPE_MISMATCH" Invalid "Value does not fit its type";
    1206 AmbiguousColumn "AMBIGUOUS_COLUMN" Invalid "Column is ambiguous";
    1207 ValueOutOfRange "VALUE_OUT_OF_RANGE" Invalid "Value is out of range";
    1208 Execution "EXECUTION_ERROR" Invalid "Statement failed while running";
    1209 DivisionByZero "DIVISION_BY_ZERO" Invalid "Division by zero";
    1301 BadLines "BAD_LINES" Invalid "Some lines were refused";
    1302 BadTimestamp "BAD_TIMESTAMP" Invalid "Timestamp is out of range";
    1303 BadEncoding "BAD_ENCODING" Invalid "Body cannot be decoded";
    1401 BatchFromFuture "BATCH_FROM_FUTURE" Invalid "Batch id lies in the future";
    1501 NotAllowed "NOT_ALLOWED" Denied "Not allowed";
    1601 NotFound "NOT_FOUND" Missing "Not found";
    1602 MethodNotAllowed "METHOD_NOT_ALLOWED" Missing "Method not allowed";
    1603 NotAcceptable "NOT_ACCEPTABLE" Missing "Reply format not known";
    1604 UnsupportedMediaType "UNSUPPORTED_MEDIA_TYPE" Missing "Content type not known";
    2001 AlreadyExists "ALREADY_EXISTS" Conflict "Exists already";
    2002 BatchConflict "BATCH_CONFLICT" Conflict "Batch id was used with another body";
    2003 BatchExpired "BATCH_EXPIRED" Conflict "Batch id is older than the window";
    3001 BodyTooLarge "BODY_TOO_LARGE" TooLarge "Body is above the limit";
    3002 StatementTooLarge "STATEMENT_TOO_LARGE" TooLarge "Statement is above the limit";
    3003 BatchTooLarge "BATCH_TOO_LARGE" TooLarge "Batch is above the limit of one record";
    4002 QueryLimit "QUERY_LIMIT" Invalid "Statement went over one of its limits";
    5001 NoLeader "NO_LEADER" Unavailable "Shard has no leader here";
    5002 ShardParked "SHARD_PARKED" Unavailable "Shard is parked";
    5003 MemoryFull "MEMORY_FULL" Unavailable "Node is short of memory";
    5004 UnflushedFull "UNFLUSHED_FULL" Unavailable "Shard has too much unflushed";
    5005 WalUnavailable "WAL_UNAVAILABLE" Unavailable "Write-ahead log does not answer";
    5006 StoreUnavailable "STORE_UNAVAILABLE" Unavailable "Object store does not answer";
    5007 MetaUnavailable "META_UNAVAILABLE" Unavailable "Meta service does not answer";
    5008 Draining "DRAINING" Unavailable "Node is shutting down";
    5009 OutcomeUnknown "OUTCOME_UNKNOWN" Unavailable "Outcome of the write is not known";
    5010 SchemaChanging "SCHEMA_CHANGING" Unavailable "Schema is being changed";
    5011 Busy "BUSY" Unavailable "Too many requests at once";
    5012 BodyTimeout "BODY_TIMEOUT" Unavailable "Body did not arrive in time";
    6001 Timeout "TIMEOUT" Deadline "Statement took too long";
    6002 Cancelled "CANCELLED" Cancelled "Cancelled";
    9001 Internal "INTERNAL" Internal "Internal error";
    9002 Corrupt "CORRUPT" Internal "Stored data is damaged";
}

/// Where in a statement the fault lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Bytes from the start, counted from 0.
    pub offset: usize,
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
}

impl Position {
    /// Position of a byte offset in a text; an offset behind its end means the end.
    pub fn of_offset(text: &str, offset: usize) -> Self {
        let mut offset = offset.min(text.len());
        while !text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &text[..offset];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            offset,
            line: before.bytes().filter(|&byte| byte == b'\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    /// Position of a line and column, both counted from 1; columns count characters.
    pub fn of_line_column(text: &str, line: usize, column: usize) -> Self {
        let line_start = match line.checked_sub(2) {
            None => 0,
            Some(newline) => match text.match_indices('\n').nth(newline) {
                Some((at, _)) => at + 1,
                None => return Self::of_offset(text, text.len()),
            },
        };
        let (rest, before) = (&text[line_start..], column.saturating_sub(1));
        // A statement may ask for the places of all of its words.
        let plain = |before: &&str| before.is_ascii() && !before.contains('\n');
        if rest.get(..before).filter(plain).is_some() {
            return Self {
                offset: line_start + before,
                line: line.max(1),
                column: before + 1,
            };
        }
        let within: usize = rest.chars().take(before).map(char::len_utf8).sum();
        Self::of_offset(text, line_start + within)
    }
}

/// A failure on its way to a caller: what, where, what to do about it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}: {detail}", code.text())]
pub struct Failure {
    /// Name for programs.
    pub code: ErrorCode,
    /// What happened, naming the thing; never a path or a secret.
    pub detail: String,
    /// Where in the statement, if a statement is at fault.
    pub position: Option<Position>,
    /// What would probably help.
    pub hint: Option<String>,
    /// How long to wait before trying again, in milliseconds.
    pub retry_after_ms: Option<u64>,
    /// What became of the write, if it was one.
    pub outcome: Option<Outcome>,
}

impl Failure {
    /// A failure with only a code and a sentence.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        let retry_after_ms = match code.kind() {
            ErrorKind::Throttled | ErrorKind::Unavailable => Some(1_000),
            _ => None,
        };
        Self {
            code,
            detail: detail.into(),
            position: None,
            hint: None,
            retry_after_ms,
            outcome: None,
        }
    }

    /// The same failure with a position.
    pub fn at(mut self, position: Position) -> Self {
        self.position = Some(position);
        self
    }

    /// The same failure with a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same failure with a time to wait.
    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }

    /// The same failure with what became of the write.
    pub fn outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = Some(outcome);
        self
    }

    /// Whether the same request may succeed later.
    pub fn retryable(&self) -> bool {
        matches!(
            self.code.kind(),
            ErrorKind::Throttled | ErrorKind::Unavailable
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_in_order() {
        for pair in ErrorCode::ALL.windows(2) {
            assert!(pair[0].number() < pair[1].number(), "{:?}", pair[1]);
        }
        let mut texts: Vec<_> = ErrorCode::ALL.iter().map(|code| code.text()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), ErrorCode::ALL.len());
    }

    #[test]
    fn positions_count_characters_and_lines() {
        let text = "SELECT é\nFROM x";
        let from = text.find("FROM").unwrap();
        let position = Position::of_offset(text, from);
        assert_eq!(
            position,
            Position {
                offset: from,
                line: 2,
                column: 1
            }
        );
        assert_eq!(Position::of_line_column(text, 2, 1), position);
        assert_eq!(Position::of_line_column(text, 1, 9).offset, from - 1);
        assert_eq!(Position::of_offset(text, 999).offset, text.len());
        assert_eq!(Position::of_line_column("", 9, 9).offset, 0);
    }
}
