//! What a scan leaves out, in the words of `reading.proto`.
//!
//! A tree over tags is written leaves first, so that neither side recurses into what the other sent.
//!
//! Never here: what a scan does with it.

use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::ids::{ColumnId, TableId, TabletId};
use auxo_proto::pb::node::number::Number as Kind;
use auxo_proto::pb::node::tag_node::Node;
use auxo_proto::pb::node::tag_question::Question;
use auxo_proto::pb::node::{self as pb, TagNode, TagQuestion};
use auxo_proto::schema::TableSchema;
use auxo_sst::predicate::{Bound, FieldBounds, TagFilter, TagTest, TimeRange};

use crate::pushdown::Pushed;

/// A scan of some tablets as a question.
///
/// * columns: places in the schema, in the order in which they are to come.
pub(crate) fn find(
    table: TableId,
    schema: &TableSchema,
    columns: &[usize],
    tablets: impl Iterator<Item = TabletId>,
    pushed: &Pushed,
) -> pb::Find {
    let mut tags = Vec::new();
    if pushed.tags != TagFilter::Any {
        write(&pushed.tags, &mut tags);
    }
    let last = pushed.time.end.saturating_sub(1);
    pb::Find {
        table: table.0,
        tablets: tablets.map(|tablet| tablet.0).collect(),
        columns: columns.iter().map(|&at| schema.columns[at].id.0).collect(),
        time_start: pushed.time.start,
        time_last: i64::try_from(last).unwrap_or(i64::MAX),
        tags,
        bounds: pushed.bounds.iter().map(bounds).collect(),
    }
}

/// What the scan leaves out.
///
/// * errors: what no other node would have sent.
pub(crate) fn pushed(find: &pb::Find) -> Result<Pushed, Failure> {
    Ok(Pushed {
        time: TimeRange {
            start: find.time_start,
            end: i128::from(find.time_last) + 1,
        },
        tags: match find.tags.as_slice() {
            [] => TagFilter::Any,
            nodes => read(nodes)?,
        },
        bounds: find
            .bounds
            .iter()
            .map(read_bounds)
            .collect::<Result<_, _>>()?,
    })
}

fn damaged(what: &str) -> Failure {
    Failure::new(
        ErrorCode::BadRequest,
        format!("scan from another node: {what}"),
    )
}

fn write(filter: &TagFilter, into: &mut Vec<TagNode>) {
    let node = match filter {
        TagFilter::Any => Node::Any(true),
        TagFilter::Nothing => Node::Nothing(true),
        TagFilter::Test { tag, test } => Node::Question(question(*tag, test)),
        TagFilter::And(all) => {
            all.iter().for_each(|filter| write(filter, into));
            Node::And(all.len() as u32)
        }
        TagFilter::Or(any) => {
            any.iter().for_each(|filter| write(filter, into));
            Node::Or(any.len() as u32)
        }
        TagFilter::Not(inner) => {
            write(inner, into);
            Node::Not(true)
        }
    };
    into.push(TagNode { node: Some(node) });
}

fn read(nodes: &[TagNode]) -> Result<TagFilter, Failure> {
    let mut made: Vec<TagFilter> = Vec::new();
    for node in nodes {
        let node = node.node.as_ref();
        let mut last = |count: u32| {
            let from = made.len().checked_sub(count as usize);
            let from = from.ok_or_else(|| damaged("a tree over tags lacks leaves"))?;
            Ok::<_, Failure>(made.split_off(from))
        };
        let filter = match node.ok_or_else(|| damaged("an unknown question about tags"))? {
            Node::Any(_) => TagFilter::Any,
            Node::Nothing(_) => TagFilter::Nothing,
            Node::Question(question) => read_question(question)?,
            Node::And(count) => TagFilter::And(last(*count)?),
            Node::Or(count) => TagFilter::Or(last(*count)?),
            Node::Not(_) => match last(1)?.pop() {
                Some(inner) => TagFilter::Not(Box::new(inner)),
                None => return Err(damaged("a negation of nothing")),
            },
        };
        made.push(filter);
    }
    match (made.pop(), made.is_empty()) {
        (Some(filter), true) => Ok(filter),
        _ => Err(damaged("a tree over tags has several roots")),
    }
}

fn question(tag: u32, test: &TagTest) -> TagQuestion {
    let limit = |value: &Vec<u8>, inclusive: &bool| pb::Limit {
        value: value.clone().into(),
        inclusive: *inclusive,
    };
    let question = match test {
        TagTest::IsNull => Question::IsNull(true),
        TagTest::OneOf(values) => Question::OneOf(pb::Values {
            values: values.iter().map(|value| value.clone().into()).collect(),
        }),
        TagTest::Below { value, inclusive } => Question::Below(limit(value, inclusive)),
        TagTest::Above { value, inclusive } => Question::Above(limit(value, inclusive)),
        TagTest::Prefix(prefix) => Question::Prefix(prefix.clone().into()),
        TagTest::Matches(pattern) => Question::Matches(pattern.clone()),
    };
    TagQuestion {
        tag,
        question: Some(question),
    }
}

fn read_question(asked: &TagQuestion) -> Result<TagFilter, Failure> {
    let question = asked.question.as_ref();
    let test = match question.ok_or_else(|| damaged("an unknown question about a tag"))? {
        Question::IsNull(_) => TagTest::IsNull,
        Question::OneOf(values) => {
            TagTest::OneOf(values.values.iter().map(|value| value.to_vec()).collect())
        }
        Question::Below(limit) => TagTest::Below {
            value: limit.value.to_vec(),
            inclusive: limit.inclusive,
        },
        Question::Above(limit) => TagTest::Above {
            value: limit.value.to_vec(),
            inclusive: limit.inclusive,
        },
        Question::Prefix(prefix) => TagTest::Prefix(prefix.to_vec()),
        Question::Matches(pattern) => TagTest::Matches(pattern.clone()),
    };
    Ok(TagFilter::Test {
        tag: asked.tag,
        test,
    })
}

fn bounds(bounds: &FieldBounds) -> pb::Bounds {
    let number = |bound: Bound| pb::Number {
        number: Some(match bound {
            Bound::I64(value) => Kind::Signed(value),
            Bound::U64(value) => Kind::Unsigned(value),
            Bound::F64(value) => Kind::Float(value),
        }),
    };
    pb::Bounds {
        column: bounds.column.0,
        min: bounds.min.map(number),
        max: bounds.max.map(number),
    }
}

fn read_bounds(bounds: &pb::Bounds) -> Result<FieldBounds, Failure> {
    let number = |number: &Option<pb::Number>| match number {
        None => Ok(None),
        Some(number) => match number.number {
            Some(Kind::Signed(value)) => Ok(Some(Bound::I64(value))),
            Some(Kind::Unsigned(value)) => Ok(Some(Bound::U64(value))),
            Some(Kind::Float(value)) if !value.is_nan() => Ok(Some(Bound::F64(value))),
            Some(Kind::Float(_)) | None => Err(damaged("a bound that is no number")),
        },
    };
    Ok(FieldBounds {
        column: ColumnId(bounds.column),
        min: number(&bounds.min)?,
        max: number(&bounds.max)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::tests::sample;

    fn test() -> impl Strategy<Value = TagTest> {
        let value = || proptest::collection::vec(any::<u8>(), 0..3);
        prop_oneof![
            Just(TagTest::IsNull),
            proptest::collection::btree_set(value(), 0..3)
                .prop_map(|values| TagTest::OneOf(values.into_iter().collect())),
            (value(), any::<bool>())
                .prop_map(|(value, inclusive)| TagTest::Below { value, inclusive }),
            (value(), any::<bool>())
                .prop_map(|(value, inclusive)| TagTest::Above { value, inclusive }),
            value().prop_map(TagTest::Prefix),
            "[a-z]{0,3}".prop_map(TagTest::Matches),
        ]
    }

    fn filter() -> impl Strategy<Value = TagFilter> {
        let leaf = prop_oneof![
            Just(TagFilter::Nothing),
            (0..3_u32, test()).prop_map(|(tag, test)| TagFilter::Test { tag, test }),
        ];
        leaf.prop_recursive(5, 30, 3, |inner| {
            let several = || proptest::collection::vec(inner.clone(), 0..3);
            prop_oneof![
                several().prop_map(TagFilter::And),
                several().prop_map(TagFilter::Or),
                inner
                    .clone()
                    .prop_map(|inner| TagFilter::Not(Box::new(inner))),
                Just(TagFilter::Any),
            ]
        })
    }

    fn bound() -> impl Strategy<Value = Option<Bound>> {
        proptest::option::of(prop_oneof![
            any::<i64>().prop_map(Bound::I64),
            any::<u64>().prop_map(Bound::U64),
            (-1e9..1e9).prop_map(Bound::F64),
        ])
    }

    proptest! {
        #[test]
        fn a_scan_arrives_as_it_was_sent(
            tags in filter(),
            start in any::<i64>(),
            last in any::<i64>(),
            (min, max) in (bound(), bound()),
        ) {
            let column = ColumnId(4);
            let sent = Pushed {
                time: TimeRange { start, end: i128::from(last) + 1 },
                tags,
                bounds: vec![FieldBounds { column, min, max }],
            };
            let info = sample().info;
            let tablets = [TabletId(1), TabletId(2)];
            let find = find(info.id, &info.schema, &[3, 0], tablets.into_iter(), &sent);
            let bytes = find.encode_to_vec();
            let arrived = pb::Find::decode(bytes.as_slice()).unwrap();
            prop_assert_eq!(&arrived, &find);
            prop_assert_eq!(arrived.columns.as_slice(), &[4, 1]);
            prop_assert_eq!(pushed(&arrived).unwrap(), sent);
        }
    }

    #[test]
    fn trees_that_nobody_writes_are_refused() {
        let node = |node| TagNode { node: Some(node) };
        let any = || node(Node::Any(true));
        for nodes in [
            vec![node(Node::And(1))],
            vec![node(Node::Not(true))],
            vec![any(), any()],
            vec![any(), node(Node::Or(u32::MAX))],
            vec![TagNode { node: None }],
        ] {
            let failure = read(&nodes).unwrap_err();
            assert_eq!(failure.code, ErrorCode::BadRequest, "{failure}");
        }
    }
}
