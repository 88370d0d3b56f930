//! The fields that a table's next line is expected to have.

use auxo_proto::schema::ColumnType;

/// Most fields that are expected.
const FIELDS_MAX: usize = 256;

/// Most expected fields that a line may leave out in one place; behind them asking the table for
/// the name is cheaper.
const SKIPPED_MAX: usize = 32;

/// Fields that the next line is expected to have: these, or some of them, in this order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Raw names, each with its `=`.
    names: Vec<u8>,
    fields: Vec<PlannedField>,
}

/// A field of a plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlannedField {
    name_start: u32,
    name_end: u32,
    /// Index in the table's fields.
    pub(super) field: u32,
    pub(super) ty: ColumnType,
    pub(super) nullable: bool,
}

impl PlannedField {
    pub(super) fn new(field: u32, ty: ColumnType, nullable: bool) -> Self {
        Self {
            name_start: 0,
            name_end: 0,
            field,
            ty,
            nullable,
        }
    }
}

/// Fields of a line with their raw names; no field stands twice.
type LineFields<'a> = [(&'a [u8], PlannedField)];

impl Plan {
    /// The first field from a place onwards whose raw name and `=` stand at the start of `rest`,
    /// with its place and the length of both.
    pub(super) fn find(&self, from: usize, rest: &[u8]) -> Option<(usize, PlannedField, usize)> {
        let fields = self.fields.iter().enumerate().skip(from);
        for (place, field) in fields.take(SKIPPED_MAX + 1) {
            let name = &self.names[field.name_start as usize..field.name_end as usize];
            if rest.starts_with(name) {
                return Some((place, *field, name.len()));
            }
        }
        None
    }

    /// Takes the fields of a line in where they stood; if their order is another, or all together
    /// are too many, only the line's fields stay.
    pub(super) fn learn(&mut self, line: &LineFields<'_>) {
        if !self.expects(line) {
            *self = self.merged(line).unwrap_or_else(|| Self::of(line));
        }
    }

    /// Whether a line has nothing new.
    fn expects(&self, line: &LineFields<'_>) -> bool {
        let mut known = self.fields.iter();
        line.iter()
            .all(|(_, field)| known.any(|known| known.field == field.field))
    }

    fn merged(&self, line: &LineFields<'_>) -> Option<Self> {
        let mut merged = Self::default();
        let mut rest = self.fields.iter();
        for (name, field) in line {
            let is_field = |known: &PlannedField| known.field == field.field;
            if rest.clone().any(is_field) {
                rest.by_ref()
                    .take_while(|known| !is_field(known))
                    .for_each(|known| merged.push(self.name(known), *known));
            } else if self.fields.iter().any(is_field) {
                return None;
            }
            merged.push(name, *field);
        }
        rest.for_each(|known| merged.push(self.name(known), *known));
        (merged.fields.len() <= FIELDS_MAX).then_some(merged)
    }

    fn of(line: &LineFields<'_>) -> Self {
        let mut plan = Self::default();
        line.iter()
            .for_each(|(name, field)| plan.push(name, *field));
        plan
    }

    /// The raw name without its `=`.
    fn name(&self, field: &PlannedField) -> &[u8] {
        &self.names[field.name_start as usize..field.name_end as usize - 1]
    }

    fn push(&mut self, raw_name: &[u8], field: PlannedField) {
        let name_start = self.names.len() as u32;
        self.names.extend_from_slice(raw_name);
        self.names.push(b'=');
        self.fields.push(PlannedField {
            name_start,
            name_end: self.names.len() as u32,
            ..field
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each letter is a field of that name.
    fn learn(plan: &mut Plan, line: &str) -> String {
        let fields: Vec<_> = line
            .as_bytes()
            .chunks(1)
            .map(|name| {
                let field = PlannedField::new(name[0].into(), ColumnType::Int64, true);
                (name, field)
            })
            .collect();
        plan.learn(&fields);
        let names = plan.fields.iter().map(|field| plan.name(field));
        String::from_utf8(names.collect::<Vec<_>>().concat()).unwrap()
    }

    #[test]
    fn fields_are_taken_in_where_they_stood() {
        let mut plan = Plan::default();
        for (line, expected) in [
            ("bd", "bd"),
            ("b", "bd"),
            ("abcd", "abcd"),
            ("ac", "abcd"),
            ("ace", "abced"),
        ] {
            assert_eq!(learn(&mut plan, line), expected, "{line}");
        }
    }

    #[test]
    fn another_order_replaces_the_plan() {
        let mut plan = Plan::default();
        assert_eq!(learn(&mut plan, "abc"), "abc");
        assert_eq!(learn(&mut plan, "xyz"), "xyzabc");
        assert_eq!(learn(&mut plan, "ca"), "ca");
    }

    #[test]
    fn a_field_is_found_behind_those_left_out() {
        let mut plan = Plan::default();
        learn(&mut plan, "abc");
        let find = |from, rest: &str| {
            let found = plan.find(from, rest.as_bytes());
            found.map(|(place, field, len)| (place, field.field, len))
        };
        assert_eq!(find(0, "a=1"), Some((0, 'a'.into(), 2)));
        assert_eq!(find(1, "c=1"), Some((2, 'c'.into(), 2)));
        assert_eq!(find(1, "a=1"), None);
        assert_eq!(find(0, "aa=1"), None);
        assert_eq!(find(3, "c=1"), None);
    }

    #[test]
    fn a_plan_stays_short() {
        let mut plan = Plan::default();
        for first in 0..600_u32 {
            let names: Vec<_> = (first..first + 10).map(|name| name.to_string()).collect();
            let fields: Vec<_> = names
                .iter()
                .zip(first..)
                .map(|(name, field)| {
                    let field = PlannedField::new(field, ColumnType::Int64, true);
                    (name.as_bytes(), field)
                })
                .collect();
            plan.learn(&fields);
            assert!(plan.expects(&fields));
            assert!(plan.fields.len() <= FIELDS_MAX);
        }
        let far = plan.fields[SKIPPED_MAX + 1];
        let rest = [plan.name(&far), b"="].concat();
        assert!(plan.find(0, &rest).is_none());
        assert!(plan.find(1, &rest).is_some());
    }
}
