//! `first(v, ts)` and `last(v, ts)`: the value of the earliest and of the latest row that has one.
//!
//! They are planned as `first_value(v ORDER BY ts)` and `last_value(v ORDER BY ts)` without NULLs, so
//! they run as DataFusion's own aggregates, grouped and in parallel.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, internal_err, plan_err};
use datafusion::functions_aggregate::first_last::{first_value_udaf, last_value_udaf};
use datafusion::logical_expr::expr::{AggregateFunction, NullTreatment};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::planner::{
    ExprPlanner, PlannerResult, RawAggregateExpr, RawWindowExpr,
};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, Signature, Volatility,
    WindowFunctionDefinition,
};

const NAMES: [&str; 2] = ["first", "last"];

/// The names, so that statements can use them.
pub(super) fn udafs() -> Vec<Arc<AggregateUDF>> {
    let named = |name| {
        let signature = Signature::any(2, Volatility::Immutable);
        Arc::new(AggregateUDF::from(Named { name, signature }))
    };
    NAMES.map(named).to_vec()
}

/// A name that is never run: the planner below puts another aggregate in its place.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Named {
    name: &'static str,
    signature: Signature,
}

impl AggregateUDFImpl for Named {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [value, _] => Ok(value.clone()),
            _ => plan_err!("Function '{}' takes (value, time)", self.name),
        }
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        internal_err!("{} was not planned", self.name)
    }
}

/// Plans `first` and `last`.
#[derive(Debug)]
pub(super) struct FirstLast;

impl ExprPlanner for FirstLast {
    fn plan_aggregate(&self, raw: RawAggregateExpr) -> Result<PlannerResult<RawAggregateExpr>> {
        let name = raw.func.name().to_owned();
        let run = match name.as_str() {
            "first" => first_value_udaf(),
            "last" => last_value_udaf(),
            _ => return Ok(PlannerResult::Original(raw)),
        };
        let [value, time] = raw.args.as_slice() else {
            return plan_err!(
                "Function '{name}' takes (value, time), not {} arguments",
                raw.args.len()
            );
        };
        if !raw.order_by.is_empty() {
            return plan_err!("Function '{name}' is ordered by its second argument alone");
        }
        let shown = format!("{name}({}, {})", value.schema_name(), time.schema_name());
        let planned = AggregateFunction::new_udf(
            run,
            vec![value.clone()],
            raw.distinct,
            raw.filter,
            vec![time.clone().sort(true, true)],
            Some(NullTreatment::IgnoreNulls),
        );
        let planned = Expr::AggregateFunction(planned).alias(shown);
        Ok(PlannerResult::Planned(planned))
    }

    fn plan_window(&self, raw: RawWindowExpr) -> Result<PlannerResult<RawWindowExpr>> {
        if let WindowFunctionDefinition::AggregateUDF(function) = &raw.func_def
            && NAMES.contains(&function.name())
        {
            let name = function.name();
            return plan_err!("Function '{name}' is not supported over a window, {name}_value is");
        }
        Ok(PlannerResult::Original(raw))
    }
}
