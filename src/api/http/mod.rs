//! The HTTP listeners: URLs, status codes, headers and bodies. The rules are in `service` and below.
//!
//! `public` and `admin` have the routes, `problem` the table of errors, `fields` the checks of bodies
//! and queries, `server` the bounds of connections.

mod admin;
mod basis;
mod body;
mod caller;
mod changes;
mod cors;
mod crash;
mod definition;
mod edge;
mod fields;
mod guard;
mod identity;
mod json;
mod pages;
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

pub(crate) use self::crash::CrashActors;
pub(crate) use self::definition::{read_terms, shown_terms};
pub(crate) use self::edge::Edge;
use self::problem::{Kind, Problem};
pub(crate) use self::server::{
    ANSWERS_BYTES_MAX, CONNECTION_BYTES, Ending, Limits, Listener, Site, serve,
};
pub(crate) use self::times::{RULE as TIME_RULE, parse as parse_time};
use super::service::Service;
use crate::{
    config::{AdminKey, ApiConfig, Secret},
    domain::identity_fold::IdentityFold,
    identity::Verifier,
};

/// Renders all metrics as Prometheus text.
pub(crate) type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What the listeners are built from.
#[derive(Clone)]
pub(crate) struct HttpParts {
    /// Answers the calls.
    pub service: Arc<dyn Service>,
    /// The settings under `api`.
    pub api: ApiConfig,
    /// How user ids are folded.
    pub identity_fold: IdentityFold,
    /// Verifies the tokens of users, where `api.identity` is "jwt".
    pub verifier: Option<Arc<Verifier>>,
    /// The keys of the admin listener. Without one, it admits no request.
    pub admin_keys: Vec<AdminKey>,
    /// Renders the answer of `/metrics`.
    pub render_metrics: RenderMetrics,
    /// The secret of the instance, where coupond keeps it and no setting names it.
    pub kept_secret: Option<Secret>,
    /// Makes actors crash, where `chaos.enabled` allows it.
    pub chaos: Option<Arc<dyn CrashActors>>,
}

/// Builds the router of the public listener.
pub(crate) fn public_router(parts: &HttpParts) -> Router {
    with_fallbacks(public::routes(parts))
}

/// Builds the router of the admin listener.
pub(crate) fn admin_router(parts: &HttpParts) -> Router {
    admin::routes(parts)
}

/// Answers unknown paths and wrong methods with problems, like every other error.
fn with_fallbacks(router: Router) -> Router {
    router.method_not_allowed_fallback(method_not_allowed).fallback(not_found)
}

async fn not_found(uri: Uri) -> Problem {
    Problem::new(Kind::NotFound, format!("nothing is at {}", uri.path()))
}

/// Answers a wrong method. The router adds `Allow`.
async fn method_not_allowed(method: Method) -> Response {
    let detail = format!("{method} is not allowed here, see the header Allow");
    Problem::new(Kind::MethodNotAllowed, detail).into_response()
}
