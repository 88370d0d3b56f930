//! Every call of the Auth service: authentication is not enabled.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::error;

/// Answers whatever is asked of the Auth service.
#[derive(Debug, Clone, Copy)]
pub(super) struct NotEnabled;

impl NamedService for NotEnabled {
    const NAME: &'static str = "etcdserverpb.Auth";
}

impl Service<Request<Body>> for NotEnabled {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<Body>) -> Self::Future {
        ready(Ok(Status::from(error::AUTH_NOT_ENABLED).into_http()))
    }
}
