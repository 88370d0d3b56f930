//! A tag filter made ready to judge: patterns compiled, answers three-valued.

use std::borrow::Cow;

use auxo_proto::key;
use regex::bytes::Regex;

use super::{TagFilter, TagTest};
use crate::error::SstError;

/// A [`TagFilter`] whose patterns are compiled.
#[derive(Clone, Debug)]
pub struct TagMatcher {
    root: Node,
    /// Number of leading tags that any question looks at.
    tags: usize,
}

#[derive(Clone, Debug)]
pub(crate) enum Node {
    Constant(bool),
    Test { tag: usize, test: Test },
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
}

#[derive(Clone, Debug)]
pub(crate) enum Test {
    IsNull,
    OneOf(Vec<Vec<u8>>),
    Below { value: Vec<u8>, inclusive: bool },
    Above { value: Vec<u8>, inclusive: bool },
    Prefix(Vec<u8>),
    Matches(Regex),
}

impl Test {
    /// Whether a value that is not NULL passes.
    pub(crate) fn accepts(&self, found: &[u8]) -> bool {
        match self {
            Self::IsNull => false,
            Self::OneOf(values) => values.iter().any(|value| value == found),
            Self::Below { value, inclusive } => {
                found < &value[..] || (*inclusive && found == value)
            }
            Self::Above { value, inclusive } => {
                found > &value[..] || (*inclusive && found == value)
            }
            Self::Prefix(prefix) => found.starts_with(prefix),
            Self::Matches(pattern) => pattern.is_match(found),
        }
    }
}

impl TagMatcher {
    /// Compiles the filter.
    ///
    /// * errors: [`SstError::Pattern`].
    pub fn new(filter: &TagFilter) -> Result<Self, SstError> {
        let root = compile(filter)?;
        Ok(Self {
            tags: depth(&root),
            root,
        })
    }

    /// Whether the series of that key passes; a key that breaks its grammar does not.
    pub fn matches(&self, series_key: &[u8]) -> bool {
        let values: Result<Vec<_>, _> = key::decode(series_key).take(self.tags).collect();
        values.is_ok_and(|values| judge(&self.root, &values) == Some(true))
    }

    /// Whether every series passes, whatever its key.
    pub fn is_any(&self) -> bool {
        matches!(self.root, Node::Constant(true))
    }

    pub(crate) fn root(&self) -> &Node {
        &self.root
    }
}

impl TagMatcher {
    /// Whether a key from `first` up to and including `last` may pass; judges by the first tag
    /// alone, and rather says yes.
    pub(crate) fn may_pass(&self, first: &[u8], last: Option<&[u8]>) -> bool {
        self.may_hold(&|tag, value| {
            let begin = key::encode([Some(value)]);
            let before = last.is_some_and(|last| last < &begin[..]);
            let behind = first > &begin[..] && !first.starts_with(&begin);
            tag > 0 || (!before && !behind)
        })
    }

    /// Whether a series may pass where `holds` says which values a tag may have; rather says yes.
    pub(crate) fn may_hold(&self, holds: &impl Fn(usize, &[u8]) -> bool) -> bool {
        may_hold(&self.root, holds)
    }
}

fn may_hold(node: &Node, holds: &impl Fn(usize, &[u8]) -> bool) -> bool {
    match node {
        Node::Constant(answer) => *answer,
        Node::And(nodes) => nodes.iter().all(|node| may_hold(node, holds)),
        Node::Or(nodes) => nodes.iter().any(|node| may_hold(node, holds)),
        Node::Test {
            tag,
            test: Test::OneOf(values),
        } => values.iter().any(|value| holds(*tag, value)),
        Node::Test { .. } | Node::Not(_) => true,
    }
}

fn compile(filter: &TagFilter) -> Result<Node, SstError> {
    let all = |filters: &[TagFilter]| filters.iter().map(compile).collect::<Result<Vec<_>, _>>();
    Ok(match filter {
        TagFilter::Any => Node::Constant(true),
        TagFilter::Nothing => Node::Constant(false),
        TagFilter::And(filters) => Node::And(all(filters)?),
        TagFilter::Or(filters) => Node::Or(all(filters)?),
        TagFilter::Not(inner) => Node::Not(Box::new(compile(inner)?)),
        TagFilter::Test { tag, test } => Node::Test {
            tag: *tag as usize,
            test: match test {
                TagTest::IsNull => Test::IsNull,
                TagTest::OneOf(values) => Test::OneOf(values.clone()),
                TagTest::Below { value, inclusive } => Test::Below {
                    value: value.clone(),
                    inclusive: *inclusive,
                },
                TagTest::Above { value, inclusive } => Test::Above {
                    value: value.clone(),
                    inclusive: *inclusive,
                },
                TagTest::Prefix(prefix) => Test::Prefix(prefix.clone()),
                TagTest::Matches(pattern) => {
                    Test::Matches(Regex::new(pattern).map_err(|error| SstError::Pattern {
                        pattern: pattern.clone(),
                        reason: error.to_string(),
                    })?)
                }
            },
        },
    })
}

fn depth(node: &Node) -> usize {
    match node {
        Node::Constant(_) => 0,
        Node::Test { tag, .. } => tag + 1,
        Node::And(nodes) | Node::Or(nodes) => nodes.iter().map(depth).max().unwrap_or(0),
        Node::Not(inner) => depth(inner),
    }
}

/// SQL's answer: true, false, or unknown (`None`).
fn judge(node: &Node, values: &[Option<Cow<'_, [u8]>>]) -> Option<bool> {
    match node {
        Node::Constant(answer) => Some(*answer),
        Node::Test { tag, test } => match (values.get(*tag).and_then(Option::as_deref), test) {
            (value, Test::IsNull) => Some(value.is_none()),
            (None, _) => None,
            (Some(value), test) => Some(test.accepts(value)),
        },
        Node::And(nodes) => {
            let mut answer = Some(true);
            for node in nodes {
                match judge(node, values) {
                    Some(false) => return Some(false),
                    Some(true) => {}
                    None => answer = None,
                }
            }
            answer
        }
        Node::Or(nodes) => {
            let mut answer = Some(false);
            for node in nodes {
                match judge(node, values) {
                    Some(true) => return Some(true),
                    Some(false) => {}
                    None => answer = None,
                }
            }
            answer
        }
        Node::Not(inner) => judge(inner, values).map(|answer| !answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(tag: u32, value: &str) -> TagFilter {
        let test = TagTest::OneOf(vec![value.as_bytes().to_vec()]);
        TagFilter::Test { tag, test }
    }

    fn test(test: TagTest) -> TagFilter {
        TagFilter::Test { tag: 0, test }
    }

    fn check(filter: TagFilter, tags: &[Option<&str>], passes: bool) {
        let key = key::encode(tags.iter().map(|tag| tag.map(str::as_bytes)));
        let matcher = TagMatcher::new(&filter).unwrap();
        assert_eq!(matcher.matches(&key), passes, "{filter:?} on {tags:?}");
    }

    #[test]
    fn every_question() {
        let v = |text: &str| text.as_bytes().to_vec();
        let below = |inclusive| {
            test(TagTest::Below {
                value: v("b"),
                inclusive,
            })
        };
        let above = |inclusive| {
            test(TagTest::Above {
                value: v("b"),
                inclusive,
            })
        };
        check(below(false), &[Some("b")], false);
        check(below(true), &[Some("b")], true);
        check(below(false), &[Some("az")], true);
        check(above(false), &[Some("b")], false);
        check(above(true), &[Some("b")], true);
        check(above(false), &[Some("ba")], true);
        check(test(TagTest::Prefix(v("ab"))), &[Some("abc")], true);
        check(test(TagTest::Prefix(v("ab"))), &[Some("a")], false);
        check(test(TagTest::Matches("b+$".into())), &[Some("abb")], true);
        check(test(TagTest::Matches("^b".into())), &[Some("abb")], false);
        check(test(TagTest::IsNull), &[None, Some("x")], true);
        check(test(TagTest::IsNull), &[Some("")], false);
        let bad = test(TagTest::Matches("(".into()));
        assert!(matches!(
            TagMatcher::new(&bad),
            Err(SstError::Pattern { pattern, .. }) if pattern == "("
        ));
    }

    #[test]
    fn key_ranges_are_ruled_out_by_the_first_tag() {
        let of = |tags: &[&str]| key::encode(tags.iter().map(|tag| Some(tag.as_bytes())));
        let may = |filter: TagFilter, first: &[&str], last: Option<&[&str]>| {
            let matcher = TagMatcher::new(&filter).unwrap();
            matcher.may_pass(&of(first), last.map(of).as_deref())
        };
        assert!(may(is(0, "b"), &["a"], Some(&["c"])));
        assert!(may(is(0, "b"), &["a"], Some(&["b"])));
        assert!(may(is(0, "b"), &["b", "x"], Some(&["c"])));
        assert!(may(is(0, "b"), &["a"], None));
        assert!(!may(is(0, "b"), &["ba"], None));
        assert!(!may(is(0, "b"), &["a"], Some(&["a", "z"])));
        assert!(may(is(1, "b"), &["c"], None));
        assert!(!may(
            TagFilter::And(vec![is(1, "b"), is(0, "b")]),
            &["c"],
            None
        ));
        assert!(may(
            TagFilter::Or(vec![is(0, "d"), is(0, "b")]),
            &["c"],
            None
        ));
        assert!(may(
            TagFilter::Not(Box::new(is(0, "b"))),
            &["b"],
            Some(&["b"])
        ));
    }

    #[test]
    fn unknown_is_neither_true_nor_false() {
        let not = |filter| TagFilter::Not(Box::new(filter));
        let null = [None, Some("x")];
        check(is(0, "a"), &null, false);
        check(not(is(0, "a")), &null, false);
        check(TagFilter::Or(vec![is(0, "a"), is(1, "x")]), &null, true);
        check(TagFilter::And(vec![is(0, "a"), is(1, "y")]), &null, false);
        check(
            not(TagFilter::And(vec![is(0, "a"), is(1, "y")])),
            &null,
            true,
        );
        check(
            not(TagFilter::Or(vec![is(0, "a"), is(1, "y")])),
            &null,
            false,
        );
        check(is(7, "a"), &[Some("a")], false);
        check(TagFilter::And(vec![]), &[], true);
        check(TagFilter::Or(vec![]), &[], false);
        check(TagFilter::Any, &[], true);
        check(TagFilter::Nothing, &[], false);
    }
}
