//! The model follows etcd's changes and shows nodes only what is live.

use super::*;
use crate::lead;

/// A model right after the first start.
pub(crate) fn first_start() -> Model {
    let model = Model::default();
    let change = lead::first_start(&model, "test", "cluster", 1).unwrap();
    change.applied_to(&model)
}
