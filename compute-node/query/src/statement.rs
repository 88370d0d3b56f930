//! Text and parameters in, a statement that can be carried out.
//!
//! 1. `tokens` reads the words and refuses what is too large, too deep, or more than one statement.
//! 2. The first word decides: queries, INSERT, DELETE and EXPLAIN go to DataFusion's parser; CREATE,
//!    DROP, ALTER, SHOW and DESCRIBE have a grammar of our own; everything else is refused by name.
//! 3. What the planner would misread is written out (`literals`, `values`); placeholders are
//!    numbered, the plan is made, values are bound in it as literals.
//! 4. The plan is checked against its limits and optimised.
//!
//! What changes something is returned as a value; nothing here carries it out.

use std::collections::HashMap;
use std::sync::Arc;

use auxo_proto::ddl::Ddl;
use auxo_proto::error::{ErrorCode, Failure, Position};
use auxo_proto::ids::TenantId;
use auxo_proto::schema::{COLUMNS_MAX, ColumnKind, TableInfo};
use auxo_proto::topology::Catalog;
use chrono::DateTime;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ParamValues, Result, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::execution::context::{SQLOptions, SessionState};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{Expr, LogicalPlan, WriteOp};
use datafusion::sql::parser::{DFParserBuilder, Statement as Parsed};
use datafusion::sql::planner::object_name_to_table_reference;
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::TokenWithSpan;
use tokio::time::Instant;

use crate::clauses;
use crate::cursor::Cursor;
use crate::delete::{self, Delete};
use crate::failure;
use crate::hints::quoted_if_needed;
use crate::insert::Insert;
use crate::names::Names;
use crate::params::Params;
use crate::precedence;
use crate::run::QueryPlan;
use crate::session::Query;
use crate::threads::Slot;
use crate::tokens::{self, Words};
use crate::{ddl, functions, literals, semantics, show, values, verbs, weight};

/// A statement that was understood.
#[derive(Debug)]
pub enum Statement {
    /// Rows are wanted: SELECT, VALUES, EXPLAIN, SHOW, DESCRIBE.
    Query(Box<QueryPlan>),
    /// Rows are to be written.
    Insert(Insert),
    /// Rows are to be hidden.
    Delete(Delete),
    /// Databases or tables are to be changed.
    Ddl(Ddl),
}

/// Whose statement it is, and where it looks for names.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// What there is.
    pub catalog: &'a Catalog,
    /// Who asks; nothing of anybody else can be named.
    pub tenant: TenantId,
    /// Database of unqualified names.
    pub database: &'a str,
}

/// A statement with all that it is understood by.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What there is.
    pub catalog: Arc<Catalog>,
    /// Who asks.
    pub tenant: TenantId,
    /// Database of unqualified names.
    pub database: String,
    /// The statement.
    pub text: String,
    /// Its values.
    pub params: Params,
}

/// Joins of a plan, those written with commas too.
const JOINS_MAX: usize = 32;

impl Query {
    /// Understands one statement.
    ///
    /// * errors: with a place in `text` wherever the text is at fault.
    pub fn prepare(
        &self,
        scope: Scope<'_>,
        text: &str,
        params: &Params,
    ) -> Result<Statement, Failure> {
        let Words { mut tokens, depth } = tokens::read(text, self.text_bytes_max)?;
        let values = params.bind(&mut tokens, text)?;
        match depth {
            0..=DEPTH_USUAL => self.understand(scope, text, tokens, values, CALLS_USUAL),
            _ => on_large_stack(|| self.understand(scope, text, tokens, values, CALLS_DEEP)),
        }
    }

    /// Understands one statement on the threads of statements: constants in it are computed as well.
    ///
    /// * errors: as [`Query::prepare`], and at the deadline.
    pub async fn prepare_apart(
        self: &Arc<Self>,
        asked: Asked,
        deadline: Instant,
        slot: Slot,
    ) -> Result<Statement, Failure> {
        let engine = Arc::clone(self);
        let work = async move {
            let scope = Scope {
                catalog: &asked.catalog,
                tenant: asked.tenant,
                database: &asked.database,
            };
            engine.prepare(scope, &asked.text, &asked.params)
        };
        self.threads.run(deadline, slot, work).await
    }

    fn understand(
        &self,
        scope: Scope<'_>,
        text: &str,
        tokens: Vec<TokenWithSpan>,
        values: Option<ParamValues>,
        parser_calls: usize,
    ) -> Result<Statement, Failure> {
        let state = self.state_now();
        let names = Names {
            state: &state,
            catalog: scope.catalog,
            tenant: scope.tenant,
            database: scope.database,
        };
        let mut cursor = Cursor::new(&tokens, text);
        let of_plan = |error: DataFusionError| names.hint(failure::of_plan(&error, text));
        for verb in ["CREATE", "DROP", "ALTER"] {
            if cursor.sees(verb) {
                return ddl::parse(&mut cursor, &names).map(Statement::Ddl);
            }
        }
        for verb in ["SHOW", "DESCRIBE", "DESC"] {
            if cursor.sees(verb) {
                let plan = show::plan(&mut cursor, &names)?;
                let plan = finish(&names, plan).map_err(of_plan)?;
                return Ok(Statement::Query(Box::new(plan)));
            }
        }
        verbs::check(&mut cursor)?;
        let mut parsed = parse(tokens, parser_calls).map_err(of_plan)?;
        check_kind(&parsed).map_err(of_plan)?;
        weight::check_parts(&parsed).map_err(of_plan)?;
        clauses::check(&parsed, text).map_err(|failure| of_plan(external(failure)))?;
        delete::without_alias(&mut parsed);
        let tables = names.tables(&parsed);
        check_values(&mut parsed, &names, text).map_err(of_plan)?;
        literals::clarify(&mut parsed, &tables);
        let condition = delete::condition(&parsed, text);
        plan(&names, parsed, values, condition)
            .map_err(|error| time_column(of_plan(error), &tables))
    }

    /// The session's state with the clock's time as the statement's.
    fn state_now(&self) -> SessionState {
        let mut state = self.state.clone();
        let options = Arc::clone(state.config_options());
        let props = state.execution_props_mut();
        props.mark_start_execution(options);
        let now = DateTime::from_timestamp_nanos(self.clock.now_ns());
        props.query_execution_start_time = Some(now);
        state
    }
}

/// Levels of nesting that are read and planned on the caller's stack.
const DEPTH_USUAL: usize = 10;
/// Calls of itself that the parser may make there.
const CALLS_USUAL: usize = 50;
/// Calls of itself that it may make on a larger stack; a parenthesis needs several.
const CALLS_DEEP: usize = 300;
/// Bytes of the stack that deeper statements get; parser and planner call themselves for each level,
/// several times, with much in each frame.
const LARGE_STACK_BYTES: usize = 64 << 20;

fn on_large_stack<T: Send>(run: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    let internal = |what: &str| Failure::new(ErrorCode::Internal, what);
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("deep-statement".into())
            .stack_size(LARGE_STACK_BYTES)
            .spawn_scoped(scope, run)
            .map_err(|_| internal("no thread for a deep statement"))?
            .join()
            .map_err(|_| internal("a deep statement could not be understood"))?
    })
}

fn parse(tokens: Vec<TokenWithSpan>, calls: usize) -> Result<Parsed> {
    let mut parser = DFParserBuilder::new(tokens)
        .with_dialect(&GenericDialect {})
        .with_recursion_limit(calls)
        .build()?;
    let mut statements = parser.parse_statements()?;
    let none = || DataFusionError::Internal("a statement without statements".into());
    let mut parsed = statements.pop_front().ok_or_else(none)?;
    precedence::mend(&mut parsed);
    Ok(parsed)
}

fn external(failure: Failure) -> DataFusionError {
    DataFusionError::External(Box::new(failure))
}

/// Lets through queries, INSERT, DELETE, and EXPLAIN of queries.
fn check_kind(parsed: &Parsed) -> Result<()> {
    let refused = |what: &str| Err(external(Failure::new(ErrorCode::Unsupported, what)));
    match parsed {
        Parsed::Statement(statement) => match statement.as_ref() {
            ast::Statement::Query(_) | ast::Statement::Insert(_) | ast::Statement::Delete(_) => {
                Ok(())
            }
            _ => refused("this statement is not supported"),
        },
        Parsed::Explain(explain) => match explain.statement.as_ref() {
            Parsed::Statement(statement)
                if matches!(statement.as_ref(), ast::Statement::Query(_)) =>
            {
                Ok(())
            }
            _ => refused("EXPLAIN is for queries"),
        },
        Parsed::CopyTo(_) => refused("COPY is not supported"),
        Parsed::CreateExternalTable(_) => refused("CREATE EXTERNAL TABLE is not supported"),
        Parsed::Reset(_) => refused("RESET is not supported"),
    }
}

/// Holds what stands in an INSERT against the table it goes to.
fn check_values(parsed: &mut Parsed, names: &Names<'_>, text: &str) -> Result<()> {
    let Parsed::Statement(statement) = parsed else {
        return Ok(());
    };
    let ast::Statement::Insert(insert) = statement.as_mut() else {
        return Ok(());
    };
    let ast::TableObject::TableName(name) = &insert.table else {
        return Ok(());
    };
    // A table that there is not is reported by the plan.
    match names.table(&object_name_to_table_reference(name.clone(), true)?) {
        Ok(table) => values::check(insert, &Arc::clone(table), text).map_err(external),
        Err(_) => Ok(()),
    }
}

/// Names by which people look for the time of a row.
const TIME_NAMES: [&str; 5] = ["ts", "time", "timestamp", "_time", "datetime"];

/// The failure with the column that was meant, if it was a table's time.
fn time_column(failure: Failure, tables: &[Arc<TableInfo>]) -> Failure {
    let missing = failure.detail.rsplit(' ').next().unwrap_or_default();
    let sought = TIME_NAMES.contains(&missing.to_lowercase().as_str());
    if failure.code != ErrorCode::ColumnNotFound || !sought {
        return failure;
    }
    let times = tables.iter().flat_map(|table| &table.schema.columns);
    match times
        .into_iter()
        .find(|column| column.kind == ColumnKind::Time)
    {
        Some(time) => {
            let hint = format!("did you mean {}?", quoted_if_needed(&time.name));
            failure.hint(hint)
        }
        None => failure,
    }
}

fn plan(
    names: &Names<'_>,
    parsed: Parsed,
    values: Option<ParamValues>,
    condition: Option<Position>,
) -> Result<Statement> {
    let plan = names.plan(parsed)?;
    weight::check_terms(&plan)?;
    clauses::check_plan(&plan)?;
    let plan = match (values, &plan) {
        (None, _) => plan,
        (Some(values), LogicalPlan::Dml(_)) => {
            let values = as_declared(values, &plan)?;
            plan.with_param_values(values)?
        }
        (Some(values), _) => plan.with_param_values(values)?,
    };
    match plan {
        LogicalPlan::Dml(dml) => match dml.op {
            WriteOp::Insert(InsertOp::Append) => {
                let table = delete::target(&dml)?;
                check_named(&dml.input, &table)?;
                let input = functions::check_casts(Arc::unwrap_or_clone(dml.input))?;
                let query = finish(names, input)?;
                Ok(Statement::Insert(Insert {
                    table,
                    query: Box::new(query),
                }))
            }
            WriteOp::Delete => delete::of_plan(&dml, names, condition).map(Statement::Delete),
            other => {
                let detail = format!("{other} is not supported");
                Err(external(Failure::new(ErrorCode::Unsupported, detail)))
            }
        },
        plan => Ok(Statement::Query(Box::new(finish(names, plan)?))),
    }
}

/// Makes sure that an INSERT gives every column that a row cannot lack.
fn check_named(input: &LogicalPlan, table: &TableInfo) -> Result<()> {
    let LogicalPlan::Projection(projection) = input else {
        return Ok(());
    };
    for (column, expr) in table.schema.columns.iter().zip(&projection.expr) {
        let value = match expr.clone().unalias() {
            Expr::Cast(cast) => *cast.expr,
            value => value,
        };
        let missing = matches!(value, Expr::Literal(value, _) if value.is_null());
        if missing && !column.nullable {
            let detail = format!(
                "column {} may not be NULL, in table {}",
                column.name, table.name
            );
            return Err(external(Failure::new(ErrorCode::TypeMismatch, detail)));
        }
    }
    Ok(())
}

/// Values in the types that an INSERT's columns declare for them.
fn as_declared(values: ParamValues, plan: &LogicalPlan) -> Result<ParamValues> {
    let ParamValues::List(mut values) = values else {
        return Ok(values);
    };
    let declared: HashMap<_, _> = plan.get_parameter_fields()?;
    for (at, value) in values.iter_mut().enumerate() {
        if let Some(Some(field)) = declared.get(&format!("${}", at + 1)) {
            let given = value.value();
            let cast = given.cast_to(field.data_type()).ok();
            // A cast to an integer would cut off what stands behind the point.
            let fits = |cast: &ScalarValue| {
                let fraction = given.data_type().is_floating() || given.data_type().is_decimal();
                let cuts = fraction && field.data_type().is_integer();
                !cuts
                    || cast
                        .cast_to(&given.data_type())
                        .is_ok_and(|back| back == *given)
            };
            let cast = cast.filter(fits).ok_or_else(|| {
                let detail = format!(
                    "parameter ${} does not fit column {}, {}",
                    at + 1,
                    field.name(),
                    semantics::type_name(field.data_type())
                );
                external(Failure::new(ErrorCode::BadParameter, detail))
            })?;
            *value = cast.into();
        }
    }
    Ok(ParamValues::List(values))
}

/// Checks a query's plan against its limits and optimises it.
fn finish(names: &Names<'_>, plan: LogicalPlan) -> Result<QueryPlan> {
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(&plan)?;
    check_size(&plan)?;
    let finished = names.state.optimize(&plan)?;
    Ok(QueryPlan {
        state: names.state.clone(),
        columns: semantics::of_plan(&plan, &finished),
        plan: finished,
    })
}

fn check_size(plan: &LogicalPlan) -> Result<()> {
    let too_complex = |detail| external(Failure::new(ErrorCode::TooComplex, detail));
    let columns = plan.schema().fields().len();
    if columns > COLUMNS_MAX {
        let detail = format!("the answer has {columns} columns, the limit is {COLUMNS_MAX}");
        return Err(too_complex(detail));
    }
    let mut joins = 0;
    plan.apply_with_subqueries(|node| {
        joins += usize::from(matches!(node, LogicalPlan::Join(_)));
        Ok(TreeNodeRecursion::Continue)
    })?;
    if joins > JOINS_MAX {
        let detail = format!("the plan has {joins} joins, the limit is {JOINS_MAX}");
        return Err(too_complex(detail));
    }
    Ok(())
}
