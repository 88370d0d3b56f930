//! What a scan may leave out: time ranges, tag filters, bounds on fields.
//!
//! Tag filters are exact: a series passes or not. Bounds on fields only prune (files, pages); rows
//! that fail them may still come out, because a field may be judged only after the merge.

mod bounds;
mod matcher;

use auxo_proto::ids::ColumnId;
use auxo_proto::schema::HashRange;

use crate::batch::FieldSet;

pub use matcher::TagMatcher;
pub(crate) use matcher::{Node, Test};

/// Times from `start` up to but not including `end`, in nanoseconds since 1970.
///
/// `end` is wider than a time so that the last representable nanosecond can be included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRange {
    /// First time that belongs to the range.
    pub start: i64,
    /// First time behind the range.
    pub end: i128,
}

impl TimeRange {
    /// All times.
    pub const ALL: Self = Self {
        start: i64::MIN,
        end: i64::MAX as i128 + 1,
    };

    /// Whether the time lies in the range.
    pub fn contains(self, time: i64) -> bool {
        self.start <= time && i128::from(time) < self.end
    }

    /// Whether any time of `[min, max]`, both included, lies in the range.
    pub fn overlaps(self, min: i64, max: i64) -> bool {
        i128::from(min) < self.end && self.start <= max
    }

    /// Whether all times of `[min, max]`, both included, lie in the range.
    pub fn covers(self, min: i64, max: i64) -> bool {
        self.start <= min && i128::from(max) < self.end
    }

    /// The times that lie in both.
    pub fn intersect(self, other: Self) -> Self {
        Self {
            start: self.start.max(other.start),
            end: self.end.min(other.end),
        }
    }

    /// Whether no time lies in it.
    pub fn is_empty(self) -> bool {
        i128::from(self.start) >= self.end
    }
}

/// A question about one tag's value, as bytes; NULL answers "unknown" to all but `IsNull`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagTest {
    /// The tag is missing.
    IsNull,
    /// Equal to one of these, which are sorted and distinct.
    OneOf(Vec<Vec<u8>>),
    /// Below the value, or equal to it where `inclusive`.
    Below {
        /// The bound.
        value: Vec<u8>,
        /// Whether the bound itself passes.
        inclusive: bool,
    },
    /// Above the value, or equal to it where `inclusive`.
    Above {
        /// The bound.
        value: Vec<u8>,
        /// Whether the bound itself passes.
        inclusive: bool,
    },
    /// Begins with these bytes.
    Prefix(Vec<u8>),
    /// Matches the regular expression (crate `regex`, search anywhere in the value).
    Matches(String),
}

/// Which series a scan wants, as a tree over questions with SQL's three-valued logic: a series
/// passes when the answer is true, not when it is unknown.
///
/// `tag` counts declared tags from 0; tags are only ever appended, so the number stays right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagFilter {
    /// Every series.
    Any,
    /// No series.
    Nothing,
    /// A question about one tag.
    Test {
        /// Place of the tag in the key, counted from 0.
        tag: u32,
        /// The question.
        test: TagTest,
    },
    /// All of them.
    And(Vec<TagFilter>),
    /// At least one of them.
    Or(Vec<TagFilter>),
    /// The opposite; unknown stays unknown.
    Not(Box<TagFilter>),
}

impl TagFilter {
    /// About as many bytes as it takes where it is stored; never none.
    pub fn bytes(&self) -> usize {
        const NODE: usize = 8;
        let inside = match self {
            Self::Any | Self::Nothing => 0,
            Self::Test { test, .. } => match test {
                TagTest::IsNull => 0,
                TagTest::OneOf(values) => values.iter().map(|value| NODE + value.len()).sum(),
                TagTest::Below { value, .. } | TagTest::Above { value, .. } => value.len(),
                TagTest::Prefix(value) => value.len(),
                TagTest::Matches(pattern) => pattern.len(),
            },
            Self::And(parts) | Self::Or(parts) => parts.iter().map(Self::bytes).sum(),
            Self::Not(part) => part.bytes(),
        };
        NODE + inside
    }
}

/// A literal that page and file statistics are compared with.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub enum Bound {
    /// For signed integers, timestamps and dates.
    I64(i64),
    /// For unsigned integers.
    U64(u64),
    /// For floats; never NaN.
    F64(f64),
}

/// Values of one field that a scan can do without: all outside `[min, max]`, and NULL.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldBounds {
    /// Which field.
    pub column: ColumnId,
    /// Smallest value that matters.
    pub min: Option<Bound>,
    /// Largest value that matters.
    pub max: Option<Bound>,
}

/// What one scan wants of one source.
#[derive(Clone, Debug)]
pub struct ScanSpec {
    /// Fields to return; a field that the source does not know comes back as NULLs.
    pub fields: FieldSet,
    /// Times to return, exactly.
    pub time: TimeRange,
    /// Series to return, exactly.
    pub tags: TagFilter,
    /// Series to return, exactly: those whose partition hash lies here.
    pub range: HashRange,
    /// All must hold of a row that matters; only used to skip. Empty where a merge follows.
    pub bounds: Vec<FieldBounds>,
}
