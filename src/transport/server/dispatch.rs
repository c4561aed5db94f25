//! From a path to the service behind it.

use std::{convert::Infallible, error::Error, future::Future, sync::Arc};

use bytes::Bytes;
use futures_util::future;
use http::{HeaderMap, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Either;
use hyper::body::Incoming;
use tonic::{Status, body::Body};
use tonic_health::{pb::health_server::HealthServer, server::HealthService};
use tower_service::Service as _;

/// Answers checks. One instance is shared by all connections.
pub trait CheckService: Clone + Send + Sync + 'static {
    /// What it answers with.
    type Body: http_body::Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>
        + Send
        + 'static;

    /// Answers one call of `envoy.service.auth.v3.Authorization/Check` that `caller` makes: the SPIFFE ID
    /// that its TLS certificate proves, `None` where it was not asked for one.
    ///
    /// What of the request is not needed until the end is best dropped before the future is made: each call
    /// is a task, and its size is copied.
    fn call(
        self,
        request: Request<Incoming>,
        caller: Option<Arc<str>>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// What the calls of one connection have in common.
pub(super) struct Calls<S> {
    pub(super) service: S,
    pub(super) health: HealthServer<HealthService>,
    pub(super) caller: Option<Arc<str>>,
}

/// Answers one call. Only a panic of the service leaves it without an answer: its stream is then reset.
pub(super) fn dispatch<S: CheckService>(
    calls: &Calls<S>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Either<S::Body, Body>>, Infallible>> + Send + use<S> {
    let path = request.uri().path();
    let is_check = path == CHECK;
    let refused = if !is_check && !path.starts_with(HEALTH) {
        Some(Status::unimplemented("no such method").into_http())
    } else if !is_grpc(request.headers()) {
        // gRPC over HTTP/2, "Requests": what is not gRPC is answered 415.
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Some(response)
    } else if request.method() != Method::POST {
        Some(Status::unimplemented("gRPC calls are POST").into_http())
    } else {
        None
    };
    if is_check && refused.is_none() {
        let answer = calls.service.clone().call(request, calls.caller.clone());
        return future::Either::Left(async move { Ok(answer.await.map(Either::Left)) });
    }
    let mut health = calls.health.clone();
    // Boxed, so that the rare question does not make the future of every check larger.
    future::Either::Right(Box::pin(async move {
        let other = match refused {
            Some(refused) => refused,
            None => health.call(request).await?,
        };
        Ok(other.map(Either::Right))
    }))
}

/// Says whether the content type is gRPC with protobuf; `application/grpc-web` and others are not.
fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes) else {
        return false;
    };
    let kind = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    matches!(kind, b"application/grpc" | b"application/grpc+proto")
}

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const HEALTH: &str = "/grpc.health.v1.Health/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_grpc_with_protobuf_is_grpc() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc ; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc+json", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, value.parse().unwrap())]);
            assert_eq!(is_grpc(&headers), expected, "{value}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
