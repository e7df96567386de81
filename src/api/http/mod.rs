//! HTTP in, JSON out: URLs, status codes, headers and bodies, and no rule of coupons.
//!
//! `public` and `admin` hold the routes, `problem` the one table from a refusal to its status,
//! `fields` the checks of bodies and queries, `server` the bounds of connections.

mod admin;
mod body;
mod caller;
mod definition;
mod fields;
mod prefer;
mod problem;
mod public;
mod server;
#[cfg(test)]
mod tests;
mod times;
mod views;

use std::sync::Arc;

use axum::{
    Router,
    http::{Method, Uri},
    response::{IntoResponse, Response},
};

use self::problem::{Kind, Problem};
pub use self::server::{CONNECTIONS_MAX, serve};
pub(crate) use self::times::{RULE as TIME_RULE, parse as parse_time};
use super::service::Service;
use crate::config::ApiConfig;

/// Renders every metric as Prometheus text.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What the listeners are built from.
#[derive(Clone)]
pub struct HttpParts {
    /// Who answers.
    pub service: Arc<dyn Service>,
    /// `api.*`: who says who is asking.
    pub api: ApiConfig,
    /// The token that administers, from the settings or made on the first start. An empty one
    /// admits nobody.
    pub admin_token: String,
    /// What `/metrics` answers.
    pub render_metrics: RenderMetrics,
}

/// The public listener's calls.
pub fn public_router(parts: &HttpParts) -> Router {
    with_fallbacks(public::routes(parts))
}

/// The admin listener's calls.
pub fn admin_router(parts: &HttpParts) -> Router {
    admin::routes(parts)
}

/// Unknown paths and wrong methods as problems, like every other error.
fn with_fallbacks(router: Router) -> Router {
    router.method_not_allowed_fallback(method_not_allowed).fallback(not_found)
}

async fn not_found(uri: Uri) -> Problem {
    Problem::new(Kind::NotFound, format!("there is no {}", uri.path()))
}

/// The router adds `Allow`.
async fn method_not_allowed(method: Method) -> Response {
    let detail = format!("{method} is not taken here, see Allow");
    Problem::new(Kind::MethodNotAllowed, detail).into_response()
}
