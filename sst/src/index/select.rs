//! A tag filter over postings: one set of ordinals, by SQL's three-valued logic.

use std::sync::Arc;

use roaring::RoaringBitmap;

use super::postings::TagPostings;
use crate::format::Malformed;
use crate::predicate::{Node, Test};

/// Series for which the answer is true, and those for which it is unknown.
struct Answer {
    yes: RoaringBitmap,
    unknown: RoaringBitmap,
}

/// The series that pass.
///
/// * `postings`: of a tag by its place in the key; `None` when the file does not know the tag, so
///   that it is NULL everywhere.
pub(crate) fn select(
    filter: &Node,
    series: u32,
    postings: &impl Fn(usize) -> Result<Option<Arc<TagPostings>>, Malformed>,
) -> Result<RoaringBitmap, Malformed> {
    let mut all = RoaringBitmap::new();
    all.insert_range(0..series);
    Ok(answer(filter, &all, postings)?.yes)
}

fn answer(
    filter: &Node,
    all: &RoaringBitmap,
    postings: &impl Fn(usize) -> Result<Option<Arc<TagPostings>>, Malformed>,
) -> Result<Answer, Malformed> {
    let none = RoaringBitmap::new;
    Ok(match filter {
        Node::Constant(true) => Answer {
            yes: all.clone(),
            unknown: none(),
        },
        Node::Constant(false) => Answer {
            yes: none(),
            unknown: none(),
        },
        Node::Test { tag, test } => match (postings(*tag)?, test) {
            (Some(tag), Test::IsNull) => Answer {
                yes: tag.nulls().clone(),
                unknown: none(),
            },
            (Some(tag), test) => Answer {
                yes: tag.select(test)?,
                unknown: tag.nulls().clone(),
            },
            (None, Test::IsNull) => Answer {
                yes: all.clone(),
                unknown: none(),
            },
            (None, _) => Answer {
                yes: none(),
                unknown: all.clone(),
            },
        },
        Node::And(filters) => {
            let (mut yes, mut possible) = (all.clone(), all.clone());
            for filter in filters {
                let of = answer(filter, all, postings)?;
                possible &= &of.yes | of.unknown;
                yes &= of.yes;
                if possible.is_empty() {
                    break;
                }
            }
            yes &= &possible;
            Answer {
                unknown: possible - &yes,
                yes,
            }
        }
        Node::Or(filters) => {
            let (mut yes, mut unknown) = (none(), none());
            for filter in filters {
                let of = answer(filter, all, postings)?;
                yes |= of.yes;
                unknown |= of.unknown;
            }
            Answer {
                unknown: unknown - &yes,
                yes,
            }
        }
        Node::Not(filter) => {
            let of = answer(filter, all, postings)?;
            Answer {
                yes: all - &of.yes - &of.unknown,
                unknown: of.unknown,
            }
        }
    })
}
