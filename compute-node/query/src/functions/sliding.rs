//! Aggregates of floats over frames that slide.
//!
//! What was added to a float cannot be taken out of it again: 1e17 + 1 - 1e17 is 0, and nothing leaves
//! a NaN. So a row that leaves its frame is not subtracted; each answer is made of partial states that hold
//! no other rows than the frame's, and costs the same for a frame of any length.
//!
//! Never here: how a function adds up; that is asked of the function itself.

use std::mem::size_of;
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use datafusion::arrow::datatypes::{DataType, FieldRef, Float64Type, Schema};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{Accumulator, AggregateUDF};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};

/// Rows between two places of the front whose states are kept, and that are added up one by one.
const STEP: usize = 64;

/// DataFusion's functions that subtract floats when a row leaves a frame, but `sum`, which is ours.
const SUBTRACTING: [&str; 17] = [
    "avg",
    "var",
    "var_pop",
    "stddev",
    "stddev_pop",
    "covar_samp",
    "covar_pop",
    "corr",
    "regr_slope",
    "regr_intercept",
    "regr_count",
    "regr_r2",
    "regr_avgx",
    "regr_avgy",
    "regr_sxx",
    "regr_syy",
    "regr_sxy",
];

/// Whether frames of the function are answered here.
pub(super) fn answers(name: &str) -> bool {
    SUBTRACTING.contains(&name)
}

/// What answers for a frame: of this module where all arguments are floats, else the function's own.
pub(super) fn accumulator(
    function: &Arc<AggregateUDF>,
    args: AccumulatorArgs<'_>,
) -> Result<Box<dyn Accumulator>> {
    let float = |field: &FieldRef| field.data_type() == &DataType::Float64;
    match args.expr_fields.iter().all(float) && !args.is_distinct {
        true => Ok(Box::new(Frame::new(function, args))),
        false => function.create_sliding_accumulator(args),
    }
}

/// What an accumulator is made from.
#[derive(Debug)]
struct Maker {
    function: Arc<AggregateUDF>,
    return_field: FieldRef,
    schema: Schema,
    ignore_nulls: bool,
    order_bys: Vec<PhysicalSortExpr>,
    is_reversed: bool,
    name: String,
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    expr_fields: Vec<FieldRef>,
}

impl Maker {
    fn make(&self) -> Result<Box<dyn Accumulator>> {
        self.function.accumulator(AccumulatorArgs {
            return_field: Arc::clone(&self.return_field),
            schema: &self.schema,
            ignore_nulls: self.ignore_nulls,
            order_bys: &self.order_bys,
            is_reversed: self.is_reversed,
            name: &self.name,
            is_distinct: false,
            exprs: &self.exprs,
            expr_fields: &self.expr_fields,
        })
    }
}

/// The rows of a frame; those with a NULL among their arguments count for nothing and are left out.
///
/// The rows are in two parts. Of the front, from which rows leave, there is the state of all that is behind
/// every [`STEP`]th row; of the back, to which rows come, there is one running state. Once the front is
/// used up the back becomes the front, so each row is added up twice, however long the frame.
#[derive(Debug)]
struct Frame {
    maker: Maker,
    /// Rows from the start of the front, for each argument.
    arguments: Vec<Vec<f64>>,
    /// Rows that have left.
    left: usize,
    /// Rows of the front, those that have left included.
    front: usize,
    /// Of the front's rows from `at * STEP`, at that place.
    behind: Vec<Vec<ScalarValue>>,
    back: Option<Box<dyn Accumulator>>,
}

impl Frame {
    fn new(function: &Arc<AggregateUDF>, args: AccumulatorArgs<'_>) -> Self {
        Self {
            arguments: vec![Vec::new(); args.expr_fields.len()],
            left: 0,
            front: 0,
            behind: Vec::new(),
            back: None,
            maker: Maker {
                function: Arc::clone(function),
                return_field: args.return_field,
                schema: args.schema.clone(),
                ignore_nulls: args.ignore_nulls,
                order_bys: args.order_bys.to_vec(),
                is_reversed: args.is_reversed,
                name: args.name.to_owned(),
                exprs: args.exprs.to_vec(),
                expr_fields: args.expr_fields.to_vec(),
            },
        }
    }

    fn rows(&self) -> usize {
        self.arguments.first().map_or(0, Vec::len)
    }

    fn slice(&self, rows: Range<usize>) -> Vec<ArrayRef> {
        let slice = |values: &Vec<f64>| -> ArrayRef {
            let values = values[rows.clone()].iter().copied();
            Arc::new(Float64Array::from_iter_values(values))
        };
        self.arguments.iter().map(slice).collect()
    }

    /// Makes a front of all rows that are left.
    fn turn(&mut self) -> Result<()> {
        for values in &mut self.arguments {
            values.drain(..self.left);
        }
        self.left = 0;
        self.front = self.rows();
        self.back = None;
        self.behind.clear();
        let mut sum = self.maker.make()?;
        for at in (0..self.front.div_ceil(STEP)).rev() {
            let until = ((at + 1) * STEP).min(self.front);
            sum.update_batch(&self.slice(at * STEP..until))?;
            self.behind.push(sum.state()?);
        }
        self.behind.reverse();
        Ok(())
    }

    /// Adds up what is in the frame.
    fn total(&mut self) -> Result<Box<dyn Accumulator>> {
        let mut total = self.maker.make()?;
        let rows = self.rows();
        if rows - self.left <= STEP {
            if self.left < rows {
                total.update_batch(&self.slice(self.left..rows))?;
            }
            return Ok(total);
        }
        let place = self.left.div_ceil(STEP);
        let begun = (place * STEP).min(self.front);
        if self.left < begun {
            total.update_batch(&self.slice(self.left..begun))?;
        }
        if let Some(state) = self.behind.get(place) {
            total.merge_batch(&arrays(state)?)?;
        }
        if let Some(back) = &mut self.back {
            total.merge_batch(&arrays(&back.state()?)?)?;
        }
        Ok(total)
    }
}

fn arrays(state: &[ScalarValue]) -> Result<Vec<ArrayRef>> {
    state.iter().map(ScalarValue::to_array).collect()
}

/// How many rows of the arguments have all of them.
fn counted(arguments: &[ArrayRef]) -> usize {
    let rows = arguments.first().map_or(0, |first| first.len());
    (0..rows).filter(|&row| has_all(arguments, row)).count()
}

fn has_all(arguments: &[ArrayRef], row: usize) -> bool {
    arguments.iter().all(|argument| argument.is_valid(row))
}

impl Accumulator for Frame {
    fn update_batch(&mut self, arguments: &[ArrayRef]) -> Result<()> {
        let (before, rows) = (
            self.rows(),
            arguments.first().map_or(0, |first| first.len()),
        );
        for row in (0..rows).filter(|&row| has_all(arguments, row)) {
            for (values, argument) in self.arguments.iter_mut().zip(arguments) {
                values.push(argument.as_primitive::<Float64Type>().value(row));
            }
        }
        if self.rows() > before {
            let came = self.slice(before..self.rows());
            let back = match &mut self.back {
                Some(back) => back,
                None => self.back.insert(self.maker.make()?),
            };
            back.update_batch(&came)?;
        }
        Ok(())
    }

    fn retract_batch(&mut self, arguments: &[ArrayRef]) -> Result<()> {
        self.left += counted(arguments);
        match self.left > self.front {
            true => self.turn(),
            false => Ok(()),
        }
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.total()?.evaluate()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.total()?.state()
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        datafusion::common::internal_err!("a frame is not merged with another")
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn size(&self) -> usize {
        let rows: usize = self.arguments.iter().map(Vec::capacity).sum();
        let states = self.behind.iter().flatten().map(ScalarValue::size);
        let back = self.back.as_ref().map_or(0, |back| back.size());
        size_of::<Self>() + rows * size_of::<f64>() + states.sum::<usize>() + back
    }
}

#[cfg(test)]
mod tests {
    use auxo_proto::random::Random;
    use datafusion::arrow::datatypes::Field;
    use datafusion::functions_aggregate::average::avg_udaf;
    use datafusion::functions_aggregate::regr::regr_slope_udaf;
    use datafusion::physical_expr::expressions::Column;

    use super::*;

    fn frame(function: &Arc<AggregateUDF>, arguments: usize) -> Frame {
        let fields: Vec<FieldRef> = (0..arguments)
            .map(|at| Arc::new(Field::new(format!("x{at}"), DataType::Float64, true)))
            .collect();
        let exprs: Vec<Arc<dyn PhysicalExpr>> = (0..arguments)
            .map(|at| Arc::new(Column::new(&format!("x{at}"), at)) as Arc<dyn PhysicalExpr>)
            .collect();
        let args = AccumulatorArgs {
            return_field: Arc::new(Field::new("y", DataType::Float64, true)),
            schema: &Schema::new(fields.clone()),
            ignore_nulls: false,
            order_bys: &[],
            is_reversed: false,
            name: "y",
            is_distinct: false,
            exprs: &exprs,
            expr_fields: &fields,
        };
        Frame::new(function, args)
    }

    /// Frames of all lengths, short and long, answer as one accumulator over their rows does.
    #[test]
    fn a_frame_answers_as_its_rows_do() {
        let random = Random::seeded(1);
        for (function, arguments) in [(avg_udaf(), 1), (regr_slope_udaf(), 2)] {
            let rows = 200 * STEP;
            let value = || match random.below(10) {
                0 => None,
                n => Some(n as f64),
            };
            let column =
                |_| -> ArrayRef { Arc::new((0..rows).map(|_| value()).collect::<Float64Array>()) };
            let columns: Vec<ArrayRef> = (0..arguments).map(column).collect();
            let slice = |from: usize, until: usize| -> Vec<ArrayRef> {
                let slices = columns
                    .iter()
                    .map(|column| column.slice(from, until - from));
                slices.collect()
            };
            let mut frame = frame(&function, arguments);
            let (mut from, mut until, mut compared) = (0, 0, 0);
            while until < rows {
                let more = 1 + random.below(900) as usize;
                let next = (until + more).min(rows);
                frame.update_batch(&slice(until, next)).unwrap();
                until = next;
                let longest = 1 + random.below(60 * STEP as u64) as usize;
                let start = from.max(until.saturating_sub(longest));
                frame.retract_batch(&slice(from, start)).unwrap();
                from = start;
                let mut plain = frame.maker.make().unwrap();
                plain.update_batch(&slice(from, until)).unwrap();
                let pair = [frame.evaluate().unwrap(), plain.evaluate().unwrap()];
                let [
                    ScalarValue::Float64(Some(ours)),
                    ScalarValue::Float64(Some(plain)),
                ] = pair
                else {
                    panic!("{pair:?}");
                };
                let apart = (ours - plain).abs();
                assert!(
                    apart <= plain.abs() * 1e-9,
                    "{from}..{until}: {ours} {plain}"
                );
                compared += 1;
            }
            assert!(compared > 10, "{compared}");
        }
    }

    #[test]
    fn what_has_left_a_frame_is_forgotten() {
        let array = |values: &[Option<f64>]| -> ArrayRef {
            Arc::new(values.iter().copied().collect::<Float64Array>())
        };
        let mut frame = frame(&avg_udaf(), 1);
        let gone = array(&[Some(1e17), Some(f64::NAN), None, Some(f64::INFINITY)]);
        frame.update_batch(&[Arc::clone(&gone)]).unwrap();
        frame
            .update_batch(&[array(&[Some(1.0), None, Some(2.0)])])
            .unwrap();
        frame.retract_batch(&[gone]).unwrap();
        assert_eq!(frame.evaluate().unwrap(), ScalarValue::Float64(Some(1.5)));
        frame
            .retract_batch(&[array(&[Some(1.0), None, Some(2.0)])])
            .unwrap();
        assert_eq!(frame.evaluate().unwrap(), ScalarValue::Float64(None));
    }
}
