//! `sum` of integers that fails where its type cannot hold the result; of all else, DataFusion's, but for
//! floats in frames that slide.
//!
//! Sums are kept in 128 bits, which no number of rows overflows: what is said depends on the sum
//! alone, not on the order of rows or on how they were spread. Partial sums travel as
//! DECIMAL(38, 0).

use std::collections::HashMap;
use std::hash::Hash;
use std::marker::PhantomData;
use std::mem::size_of;
use std::sync::Arc;

use auxo_proto::error::{ErrorCode, Failure};
use datafusion::arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, Decimal128Array, PrimitiveArray,
};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{
    DataType, Decimal128Type, Field, FieldRef, Int64Type, UInt64Type,
};
use datafusion::common::{Result, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator,
    ReversedUDAF, SetMonotonicity, Signature,
};

use super::sliding;
use crate::semantics::type_name;

/// The name under which DataFusion's own is taken away.
pub(super) const NAME: &str = "sum";

/// The function, for registration.
pub(super) fn udaf() -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::from(Sum { inner: sum_udaf() }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Sum {
    inner: Arc<AggregateUDF>,
}

const PARTIAL: DataType = DataType::Decimal128(38, 0);

fn partial(sums: Vec<i128>, nulls: Option<NullBuffer>) -> Result<ArrayRef> {
    let sums = Decimal128Array::new(sums.into(), nulls);
    Ok(Arc::new(sums.with_data_type(PARTIAL)))
}

/// Integers as wide as sums of them are answered.
trait Summand: ArrowPrimitiveType<Native: Into<i128> + TryFrom<i128> + Hash + Eq> {
    fn narrow(sum: i128) -> Result<Self::Native> {
        Self::Native::try_from(sum).map_err(|_| {
            let detail = format!("sum overflows {}", type_name(&Self::DATA_TYPE));
            let failure = Failure::new(ErrorCode::ValueOutOfRange, detail);
            DataFusionError::External(Box::new(failure))
        })
    }
}

impl Summand for Int64Type {}
impl Summand for UInt64Type {}

impl AggregateUDFImpl for Sum {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match args.return_field.data_type() {
            DataType::Int64 => Ok(Running::<Int64Type>::boxed(args.is_distinct)),
            DataType::UInt64 => Ok(Running::<UInt64Type>::boxed(args.is_distinct)),
            _ => self.inner.accumulator(args),
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match args.return_field.data_type() {
            DataType::Int64 | DataType::UInt64 => self.accumulator(args),
            _ => sliding::accumulator(&self.inner, args),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        match args.return_type() {
            DataType::Int64 | DataType::UInt64 if !args.is_distinct => {
                let name = format_state_name(args.name, NAME);
                Ok(vec![Arc::new(Field::new(name, PARTIAL, true))])
            }
            _ => self.inner.state_fields(args),
        }
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        match args.return_field.data_type() {
            DataType::Int64 => Ok(Box::new(Grouped::<Int64Type>::default())),
            DataType::UInt64 => Ok(Box::new(Grouped::<UInt64Type>::default())),
            _ => self.inner.create_groups_accumulator(args),
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn set_monotonicity(&self, ty: &DataType) -> SetMonotonicity {
        self.inner.inner().set_monotonicity(ty)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// One sum; rows may leave it again.
#[derive(Debug)]
struct Running<T: Summand> {
    sum: i128,
    /// Rows in the sum.
    rows: u64,
    /// How many rows have each value, where only distinct ones count.
    distinct: Option<HashMap<T::Native, u64>>,
}

impl<T: Summand> Running<T> {
    fn boxed(distinct: bool) -> Box<dyn Accumulator>
    where
        Self: Accumulator + 'static,
    {
        Box::new(Self {
            sum: 0,
            rows: 0,
            distinct: distinct.then(HashMap::new),
        })
    }

    fn add(&mut self, values: &PrimitiveArray<T>) {
        match &mut self.distinct {
            Some(counts) => {
                for value in values.iter().flatten() {
                    let count = counts.entry(value).or_insert(0);
                    *count += 1;
                    if *count == 1 {
                        self.sum += value.into();
                    }
                }
            }
            None => self.sum += total(values),
        }
        self.rows += (values.len() - values.null_count()) as u64;
    }

    fn remove(&mut self, values: &PrimitiveArray<T>) {
        match &mut self.distinct {
            Some(counts) => {
                for value in values.iter().flatten() {
                    let left = counts.get(&value).map_or(0, |count| count - 1);
                    if left > 0 {
                        counts.insert(value, left);
                    } else if counts.remove(&value).is_some() {
                        self.sum -= value.into();
                    }
                }
            }
            None => self.sum -= total(values),
        }
        self.rows -= (values.len() - values.null_count()) as u64;
    }
}

fn total<T: Summand>(values: &PrimitiveArray<T>) -> i128 {
    let add = |sum: i128, value: T::Native| sum + value.into();
    match values.null_count() {
        0 => values.values().iter().copied().fold(0, add),
        _ => values.iter().flatten().fold(0, add),
    }
}

impl<T: Summand + std::fmt::Debug> Accumulator for Running<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add(values[0].as_primitive::<T>());
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let sum = match self.rows {
            0 => None,
            _ => Some(T::narrow(self.sum)?),
        };
        ScalarValue::new_primitive::<T>(sum, &T::DATA_TYPE)
    }

    fn size(&self) -> usize {
        let entry = size_of::<(T::Native, u64)>();
        let distinct = self.distinct.as_ref().map_or(0, HashMap::capacity);
        size_of::<Self>() + distinct * entry
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let Some(counts) = &self.distinct else {
            let sum = (self.rows > 0).then_some(self.sum);
            return Ok(vec![ScalarValue::Decimal128(sum, 38, 0)]);
        };
        let values = counts
            .keys()
            .map(|&value| ScalarValue::new_primitive::<T>(Some(value), &T::DATA_TYPE));
        let values = values.collect::<Result<Vec<_>>>()?;
        let list = ScalarValue::new_list_nullable(&values, &T::DATA_TYPE);
        Ok(vec![ScalarValue::List(list)])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        if self.distinct.is_some() {
            for values in states[0].as_list::<i32>().iter().flatten() {
                self.add(values.as_primitive::<T>());
            }
            return Ok(());
        }
        for sum in states[0].as_primitive::<Decimal128Type>().iter().flatten() {
            self.sum += sum;
            self.rows += 1;
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.remove(values[0].as_primitive::<T>());
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }
}

/// A sum for each group.
#[derive(Debug)]
struct Grouped<T: Summand> {
    sums: Vec<i128>,
    /// Whether the group has a value.
    seen: Vec<bool>,
    summand: PhantomData<T>,
}

impl<T: Summand> Default for Grouped<T> {
    fn default() -> Self {
        Self {
            sums: Vec::new(),
            seen: Vec::new(),
            summand: PhantomData,
        }
    }
}

impl<T: Summand> Grouped<T> {
    fn add<V: Copy + Into<i128>>(
        &mut self,
        values: &[V],
        valid: Option<&NullBuffer>,
        groups: &[usize],
        groups_total: usize,
    ) {
        self.sums.resize(groups_total, 0);
        self.seen.resize(groups_total, false);
        for (row, (&group, &value)) in groups.iter().zip(values).enumerate() {
            if valid.is_none_or(|valid| valid.is_valid(row)) {
                self.sums[group] += value.into();
                self.seen[group] = true;
            }
        }
    }

    fn take(&mut self, emit_to: EmitTo) -> (Vec<i128>, Option<NullBuffer>) {
        let sums = emit_to.take_needed(&mut self.sums);
        let seen = emit_to.take_needed(&mut self.seen);
        (sums, Some(NullBuffer::from(seen)))
    }
}

/// Rows that have a value and pass the filter; `None` when all do.
fn counted(values: &dyn Array, filter: Option<&BooleanArray>) -> Option<NullBuffer> {
    let passes = filter.map(|filter| {
        let passes = NullBuffer::new(filter.values().clone());
        NullBuffer::union(Some(&passes), filter.nulls()).unwrap_or(passes)
    });
    NullBuffer::union(values.nulls(), passes.as_ref())
}

impl<T: Summand + Send> GroupsAccumulator for Grouped<T> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        let valid = counted(&values[0], opt_filter);
        let values = values[0].as_primitive::<T>().values();
        self.add(values, valid.as_ref(), group_indices, total_num_groups);
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let (sums, nulls) = self.take(emit_to);
        let sums: Vec<T::Native> = sums.into_iter().map(T::narrow).collect::<Result<_>>()?;
        Ok(Arc::new(PrimitiveArray::<T>::new(sums.into(), nulls)))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let (sums, nulls) = self.take(emit_to);
        Ok(vec![partial(sums, nulls)?])
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        let valid = values[0].nulls().cloned();
        let values = values[0].as_primitive::<Decimal128Type>().values();
        self.add(values, valid.as_ref(), group_indices, total_num_groups);
        Ok(())
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let nulls = counted(&values[0], opt_filter);
        let values = values[0].as_primitive::<T>().values();
        let sums = values.iter().map(|&value| value.into()).collect();
        Ok(vec![partial(sums, nulls)?])
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<i128>() + self.seen.capacity()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int64Array, UInt64Array};

    use super::*;

    fn array(values: &[Option<i64>]) -> ArrayRef {
        Arc::new(Int64Array::from(values.to_vec()))
    }

    #[test]
    fn partial_sums_are_exact_and_only_the_answer_has_to_fit() {
        let groups = [0, 0, 1, 1, 2];
        let values = [Some(i64::MAX), Some(1), Some(i64::MIN), None, None];
        let mut first = Grouped::<Int64Type>::default();
        first
            .update_batch(&[array(&values)], &groups, None, 3)
            .unwrap();
        let part = first.state(EmitTo::All).unwrap();
        let raw = first.convert_to_state(&[array(&[Some(-1)])], None).unwrap();

        let mut whole = Grouped::<Int64Type>::default();
        whole.merge_batch(&part, &[0, 1, 2], 3).unwrap();
        whole.merge_batch(&raw, &[0], 3).unwrap();
        let sums = whole.evaluate(EmitTo::All).unwrap();
        assert_eq!(&sums, &array(&[Some(i64::MAX), Some(i64::MIN), None]));

        whole.merge_batch(&part, &[0, 1, 2], 3).unwrap();
        let failure = whole.evaluate(EmitTo::All).unwrap_err();
        assert!(
            failure.to_string().contains("sum overflows int64"),
            "{failure}"
        );
    }

    #[test]
    fn a_filter_leaves_rows_out() {
        let mut sums = Grouped::<UInt64Type>::default();
        let values: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX, 1, 2]));
        let filter = BooleanArray::from(vec![Some(false), Some(true), None]);
        sums.update_batch(&[values], &[0, 0, 1], Some(&filter), 2)
            .unwrap();
        let found = sums.evaluate(EmitTo::All).unwrap();
        let expected: ArrayRef = Arc::new(UInt64Array::from(vec![Some(1), None]));
        assert_eq!(&found, &expected);
    }

    #[test]
    fn rows_leave_a_sum_as_they_came() {
        for (distinct, both) in [(false, 2), (true, 1)] {
            let mut sum = Running::<Int64Type>::boxed(distinct);
            sum.update_batch(&[array(&[Some(1), Some(1), None])])
                .unwrap();
            assert_eq!(sum.evaluate().unwrap(), ScalarValue::Int64(Some(both)));
            sum.update_batch(&[array(&[Some(i64::MAX)])]).unwrap();
            assert!(sum.evaluate().is_err());
            let mut other = Running::<Int64Type>::boxed(distinct);
            let state = sum.state().unwrap();
            let state: Vec<ArrayRef> = state.iter().map(|part| part.to_array().unwrap()).collect();
            other.merge_batch(&state).unwrap();
            assert!(other.evaluate().is_err());
            sum.retract_batch(&[array(&[Some(1), Some(1), None])])
                .unwrap();
            assert_eq!(sum.evaluate().unwrap(), ScalarValue::Int64(Some(i64::MAX)));
            sum.retract_batch(&[array(&[Some(i64::MAX)])]).unwrap();
            assert_eq!(sum.evaluate().unwrap(), ScalarValue::Int64(None));
        }
    }
}
