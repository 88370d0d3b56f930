//! Text and parameters in, a statement that can be run out.

use std::sync::Arc;

use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::ids::TenantId;
use auxo_proto::topology::Catalog;
use chrono::DateTime;
use datafusion::execution::context::{SQLOptions, SessionState};
use datafusion::sql::parser::{DFParserBuilder, Statement as Parsed};
use datafusion::sql::sqlparser::dialect::GenericDialect;

use crate::failure;
use crate::names::Names;
use crate::run::QueryPlan;
use crate::semantics;
use crate::session::{PARSER_DEPTH_MAX, Query};

/// A statement that was understood.
#[derive(Debug)]
pub enum Statement {
    /// Rows are wanted.
    Query(Box<QueryPlan>),
}

impl Query {
    /// Understands one statement of a tenant.
    ///
    /// * `database`: where unqualified names are looked up.
    /// * errors: with a place in `text` wherever the text is at fault.
    pub fn prepare(
        &self,
        catalog: &Arc<Catalog>,
        tenant: TenantId,
        database: &str,
        text: &str,
    ) -> Result<Statement, Failure> {
        let state = self.state_now();
        let names = Names {
            state: &state,
            catalog,
            tenant,
            database,
        };
        let parsed = parse(text).map_err(|error| failure::of_plan(&error, text))?;
        let plan = plan(&names, parsed).map_err(|error| failure::of_plan(&error, text))?;
        Ok(Statement::Query(Box::new(plan)))
    }

    /// The session's state with the clock's time as the statement's.
    fn state_now(&self) -> SessionState {
        let mut state = self.state.clone();
        let options = Arc::clone(state.config_options());
        let props = state.execution_props_mut();
        props.mark_start_execution(options);
        props.query_execution_start_time =
            Some(DateTime::from_timestamp_nanos(self.clock.now_ns()));
        state
    }
}

fn parse(text: &str) -> datafusion::common::Result<Parsed> {
    let mut statements = DFParserBuilder::new(text)
        .with_dialect(&GenericDialect {})
        .with_recursion_limit(PARSER_DEPTH_MAX)
        .build()?
        .parse_statements()?;
    let failure = |code, text| {
        datafusion::error::DataFusionError::External(Box::new(Failure::new(code, text)))
    };
    match (statements.pop_front(), statements.is_empty()) {
        (Some(statement), true) => Ok(statement),
        (None, _) => Err(failure(ErrorCode::Parse, "there is no statement")),
        (Some(_), false) => Err(failure(
            ErrorCode::MultipleStatements,
            "one statement a request",
        )),
    }
}

fn plan(names: &Names<'_>, parsed: Parsed) -> datafusion::common::Result<QueryPlan> {
    let plan = names.plan(parsed)?;
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(&plan)?;
    let columns = semantics::of_plan(&plan);
    let plan = names.state.optimize(&plan)?;
    Ok(QueryPlan {
        state: names.state.clone(),
        plan,
        columns,
    })
}
