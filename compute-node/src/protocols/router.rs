//! Every route of the public listener.

use axum::Router;
use axum::routing::{get, post};

use super::{http_sql, influx, status};
use crate::node::Node;

/// The routes over one node.
pub fn router(node: Node) -> Router {
    Router::new()
        .route(
            "/v1/sql",
            get(http_sql::door::sql).post(http_sql::door::sql),
        )
        .route(
            "/v1/queries/{id}",
            get(http_sql::door::known).delete(http_sql::door::cancel),
        )
        .route("/v1/health", get(status::health))
        .route("/v1/ready", get(status::ready))
        .route("/v1/errors", get(status::errors))
        .route("/v1/errors/{code}", get(status::error))
        .route("/v1/{kind}", get(status::list))
        .route("/v1/{kind}/{target}", get(status::show))
        .route(
            "/v1/{kind}/{target}/{action}",
            post(status::act).fallback(status::acts_by_post),
        )
        .route("/metrics", get(status::metrics))
        .route("/write", post(influx::door::v1))
        .route("/api/v2/write", post(influx::door::v2))
        .route("/ping", get(status::ping))
        .route("/health", get(status::influx_health))
        .fallback(http_sql::door::no_such_route)
        .method_not_allowed_fallback(http_sql::door::no_such_method)
        .with_state(node)
}
