//! Names in statements: which table, column or function a word means to one tenant.
//!
//! * `table` is looked up in the statement's database, `database.table` in that database of the
//!   tenant; `public` stands for the statement's database, as PostgreSQL clients expect.
//! * `information_schema` holds what the tenant's own catalogue holds.
//! * A name of another tenant and a name nobody has look the same.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Arc;

use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::ids::TenantId;
use auxo_proto::schema::TableInfo;
use auxo_proto::topology::{Catalog, DatabaseInfo};
use datafusion::arrow::datatypes::DataType;
use datafusion::catalog::{TableFunctionArgs, TableProvider};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, Result, TableReference, plan_err};
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SessionState;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{
    AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, ScalarUDF, TableSource, WindowUDF,
};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::parser::Statement;
use datafusion::sql::planner::{ParserOptions, SqlToRel, object_name_to_table_reference};
use datafusion::sql::sqlparser::ast::visit_relations;

use crate::functions::Integers;
use crate::hints::did_you_mean;
use crate::information_schema;
use crate::table::SeriesTable;

/// Schema that clients of PostgreSQL name where they mean the database itself.
const PUBLIC: &str = "public";

/// What the words of one statement can mean.
pub(crate) struct Names<'a> {
    pub(crate) state: &'a SessionState,
    pub(crate) catalog: &'a Catalog,
    pub(crate) tenant: TenantId,
    /// Database of unqualified names.
    pub(crate) database: &'a str,
}

impl Names<'_> {
    /// Plans a statement that DataFusion knows.
    pub(crate) fn plan(&self, statement: Statement) -> Result<LogicalPlan> {
        let options = &self.state.config_options().sql_parser;
        let options = ParserOptions {
            parse_float_as_decimal: options.parse_float_as_decimal,
            enable_ident_normalization: options.enable_ident_normalization,
            enable_options_value_normalization: options.enable_options_value_normalization,
            support_varchar_with_length: options.support_varchar_with_length,
            map_string_types_to_utf8view: options.map_string_types_to_utf8view,
            collect_spans: true,
            default_null_ordering: options.default_null_ordering.as_str().into(),
        };
        SqlToRel::new_with_options(self, options).statement_to_plan(statement)
    }

    /// The tables that a statement names and that there are.
    pub(crate) fn tables(&self, statement: &Statement) -> Vec<Arc<TableInfo>> {
        let mut known = Vec::new();
        match statement {
            Statement::Statement(statement) => {
                let ControlFlow::Continue(()) = visit_relations(statement, |name| {
                    let name = object_name_to_table_reference(name.clone(), true);
                    known.extend(name.ok().and_then(|name| self.table(&name).ok().cloned()));
                    ControlFlow::<Infallible>::Continue(())
                });
            }
            Statement::Explain(explain) => known = self.tables(&explain.statement),
            _ => {}
        }
        known
    }

    /// The failure with the function that was probably meant, if one is missing.
    pub(crate) fn hint(&self, failure: Failure) -> Failure {
        let missing = failure.detail.strip_prefix("there is no function ");
        let (ErrorCode::FunctionNotFound, Some(missing)) = (failure.code, missing) else {
            return failure;
        };
        let scalar = self.state.scalar_functions().keys();
        let aggregate = self.state.aggregate_functions().keys();
        let window = self.state.window_functions().keys();
        let known = scalar.chain(aggregate).chain(window).map(String::as_str);
        match did_you_mean(missing, known) {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }

    /// The tenant's database of that name.
    pub(crate) fn database(&self, name: &str) -> Result<&DatabaseInfo, Failure> {
        if let Some(database) = self.catalog.database(self.tenant, name) {
            return Ok(database);
        }
        let failure = Failure::new(
            ErrorCode::DatabaseNotFound,
            format!("there is no database {name}"),
        );
        let names = self.catalog.databases(self.tenant);
        Err(
            match did_you_mean(name, names.map(|known| known.name.as_str())) {
                Some(hint) => failure.hint(hint),
                None => failure,
            },
        )
    }

    /// The database that the parts of a name before the table's mean.
    pub(crate) fn resolve_database<'n>(
        &'n self,
        catalog: Option<&'n str>,
        schema: Option<&'n str>,
    ) -> &'n str {
        match (catalog, schema) {
            (None, Some(PUBLIC)) if self.catalog.database(self.tenant, PUBLIC).is_none() => {
                self.database
            }
            (Some(catalog), Some(PUBLIC)) => catalog,
            (_, Some(schema)) => schema,
            (_, None) => self.database,
        }
    }

    /// The table that a possibly qualified name means.
    pub(crate) fn table(&self, name: &TableReference) -> Result<&Arc<TableInfo>, Failure> {
        let database = self.resolve_database(name.catalog(), name.schema());
        let database = self.database(database)?;
        if let Some(table) = self.catalog.table(database.id, name.table()) {
            return Ok(table);
        }
        let failure = Failure::new(
            ErrorCode::TableNotFound,
            format!("database {} has no table {}", database.name, name.table()),
        );
        let names = self.catalog.tables(database.id);
        Err(
            match did_you_mean(name.table(), names.map(|known| known.name.as_str())) {
                Some(hint) => failure.hint(hint),
                None => failure,
            },
        )
    }
}

impl ContextProvider for Names<'_> {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        let external = |failure| DataFusionError::External(Box::new(failure));
        let provider: Arc<dyn TableProvider> = if name.schema() == Some(information_schema::NAME) {
            Arc::new(information_schema::table(self, name.table())?)
        } else {
            let table = self.table(&name).map_err(external)?;
            let tablets = self.catalog.tablets(table.id);
            Arc::new(SeriesTable::new(Arc::clone(table), tablets))
        };
        Ok(provider_as_source(provider))
    }

    fn get_table_function_source(
        &self,
        name: &str,
        args: Vec<Expr>,
    ) -> Result<Arc<dyn TableSource>> {
        let functions = self.state.table_functions();
        let Some(function) = functions.get(name) else {
            let failure = Failure::new(
                ErrorCode::FunctionNotFound,
                format!("there is no table function {name}"),
            );
            let failure = match did_you_mean(name, functions.keys().map(String::as_str)) {
                Some(hint) => failure.hint(hint),
                None => failure,
            };
            return Err(DataFusionError::External(Box::new(failure)));
        };
        let context = SimplifyContext::builder()
            .with_config_options(Arc::clone(self.state.config_options()))
            .with_query_execution_start_time(
                self.state.execution_props().query_execution_start_time,
            )
            .build();
        let simplifier = ExprSimplifier::new(context);
        let schema = DFSchema::empty();
        let options = self.state.config_options();
        let constant = |arg: Expr| {
            let arg = arg.transform_up(|arg| Integers.rewrite(arg, &schema, options))?;
            let arg = simplifier.simplify(simplifier.coerce(arg.data, &schema)?)?;
            match arg {
                Expr::ScalarFunction(_) => plan_err!("an argument of {name} has no value"),
                arg => Ok(arg),
            }
        };
        let args = args.into_iter().map(constant).collect::<Result<Vec<_>>>()?;
        let args = TableFunctionArgs::new(&args, self.state);
        Ok(provider_as_source(
            function.create_table_provider_with_args(args)?,
        ))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.state.expr_planners()
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.state.scalar_functions().get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.state.higher_order_functions().get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.state.aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.state.window_functions().get(name).cloned()
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.state.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        self.state.scalar_functions().keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        let functions = self.state.higher_order_functions();
        functions.keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.state.aggregate_functions().keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.state.window_functions().keys().cloned().collect()
    }
}
