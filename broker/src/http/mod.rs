//! The HTTP interface: the calls, and how they are found.
//!
//! | module | calls |
//! |---|---|
//! | [`namespaces`] | create, look at, list, delete |
//! | [`publish`], [`batch`], [`ndjson`] | publish: one batch, its JSON, a stream of batches |
//! | [`read`], [`rebuild`] | a page; all of it, with proof |
//! | [`events`], [`multi_events`] | follow one namespace, or many |
//! | [`keys`], [`objects`], [`stores`] | what the stores hold |
//! | [`groups`] | workers that share a namespace's records |
//! | [`locks`] | one owner at a time |
//! | [`subscribers`] | durable subscribers: their rooms, and what they missed |
//! | [`health`], [`openapi`] | for those who run the broker, and those who write clients |
//!
//! The rest is what they share: [`path`] and [`query`] read the address, [`media`] the media types,
//! [`body`], [`strict`] and [`lines`] the body; [`sse`], [`event_stream`], [`delivery`] and [`token`] make event streams;
//! [`reads`] does what waits for the disk; [`answer`], [`hex`] and [`error`] make answers.

mod answer;
pub(crate) mod batch;
pub(crate) mod body;
mod delivery;
pub(crate) mod error;
pub(crate) mod event_stream;
mod events;
mod groups;
mod health;
mod hex;
mod keys;
pub(crate) mod lines;
mod locks;
mod media;
mod multi_events;
mod namespaces;
mod ndjson;
mod objects;
mod openapi;
pub(crate) mod outgoing;
pub(crate) mod path;
mod publish;
pub(crate) mod query;
mod read;
pub(crate) mod reads;
mod rebuild;
pub(crate) mod sse;
mod stores;
mod strict;
mod subscribers;
pub(crate) mod token;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header::{ACCEPT, CONTENT_TYPE, IF_MATCH};
use axum::http::{HeaderValue, Method, Uri};
use axum::routing::get;
use tower_http::cors::{AllowOrigin, CorsLayer};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wire::Code;

use crate::config::ServeError;
use crate::state::Broker;
use error::Refusal;

/// How long a browser may remember what it is allowed.
const CORS_MAX_AGE: Duration = Duration::from_secs(3600);

/// The router of all calls. Where no origin is configured, nothing stands before the handlers.
pub(crate) fn router(broker: &Arc<Broker>, cors: Option<CorsLayer>) -> Router {
    let (router, api) = OpenApiRouter::with_openapi(openapi::document())
        .routes(routes!(namespaces::put, namespaces::get, namespaces::delete))
        .routes(routes!(namespaces::list))
        .routes(routes!(publish::publish, read::read))
        .routes(routes!(rebuild::rebuild))
        .routes(routes!(events::follow))
        .routes(routes!(multi_events::follow))
        .routes(routes!(keys::range))
        .routes(routes!(keys::get, keys::put, keys::delete))
        .routes(routes!(objects::get))
        .routes(routes!(objects::previous))
        .routes(routes!(stores::list))
        .routes(routes!(stores::rebuild))
        .routes(routes!(groups::list))
        .routes(routes!(groups::put, groups::get, groups::delete))
        .routes(routes!(groups::lease::lease))
        .routes(routes!(groups::stream::lease))
        .routes(routes!(groups::settle::ack))
        .routes(routes!(groups::settle::nack))
        .routes(routes!(groups::settle::extend))
        .routes(routes!(groups::lease::leave))
        .routes(routes!(groups::seek))
        .routes(routes!(groups::redrive))
        .routes(routes!(locks::ask, locks::get))
        .routes(routes!(locks::extend))
        .routes(routes!(locks::release))
        .routes(routes!(subscribers::list))
        .routes(routes!(subscribers::put, subscribers::get, subscribers::delete))
        .routes(routes!(subscribers::join))
        .routes(routes!(subscribers::leave))
        .routes(routes!(subscribers::events::follow))
        .routes(routes!(subscribers::events::ack))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
        .split_for_parts();
    let api: Arc<utoipa::openapi::OpenApi> = Arc::new(api);
    let router = router
        .route("/openapi.json", get(move || async move { answer::answer(&*api) }))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(Arc::clone(broker));
    match cors {
        Some(cors) => router.layer(cors),
        None => router,
    }
}

/// What browsers are allowed: nothing where no origin is configured.
///
/// # Errors
/// Where something is not an origin.
pub(crate) fn cors(origins: &[String]) -> Result<Option<CorsLayer>, ServeError> {
    if origins.is_empty() {
        return Ok(None);
    }
    let origin = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().map(|text| origin(text)).collect::<Result<Vec<_>, _>>()?)
    };
    let producer = [publish::PRODUCER_ID, publish::PRODUCER_EPOCH, publish::PRODUCER_SEQ];
    let taken = [ACCEPT, CONTENT_TYPE, IF_MATCH, event_stream::LAST_EVENT_ID].into_iter().chain(producer);
    Ok(Some(
        CorsLayer::new()
            .allow_origin(origin)
            .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE])
            .allow_headers(taken.collect::<Vec<_>>())
            .expose_headers([read::NEXT_OFFSET, read::HEAD, axum::http::header::RETRY_AFTER])
            .max_age(CORS_MAX_AGE),
    ))
}

/// Scheme and authority, and nothing behind them.
fn origin(text: &str) -> Result<HeaderValue, ServeError> {
    let not_one = || ServeError::Origin(text.to_owned());
    let uri: Uri = text.parse().map_err(|_| not_one())?;
    let web = matches!(uri.scheme_str(), Some("http" | "https"));
    let bare = uri.path_and_query().is_none_or(|path| path == "/") && !text.ends_with('/');
    if web && bare { text.parse().map_err(|_| not_one()) } else { Err(not_one()) }
}

/// Answers what no route takes. An empty name in a path is no route, but has a reason of its own.
async fn not_found(uri: Uri) -> Refusal {
    if uri.path().starts_with("/v1/namespaces/")
        && let Err(refusal) = path::namespace(&uri).and_then(|_| match uri.path().split('/').nth(4) {
            Some("keys") => path::key(&uri).map(drop),
            Some("groups") => path::group(&uri).map(drop),
            _ => Ok(()),
        })
    {
        return refusal;
    }
    if uri.path().starts_with("/v1/locks/")
        && let Err(refusal) = path::lock(&uri)
    {
        return refusal;
    }
    if uri.path().starts_with("/v1/subscribers/")
        && let Err(refusal) = path::subscriber(&uri)
    {
        return refusal;
    }
    Refusal::new(Code::NotFound, format!("there is nothing at {}", uri.path()))
}

async fn method_not_allowed(method: Method, uri: Uri) -> Refusal {
    Refusal::new(Code::MethodNotAllowed, format!("{} does not take {method}", uri.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_checked() {
        assert!(cors(&[]).unwrap().is_none());
        for good in ["*", "http://localhost:3000", "https://example.org"] {
            assert!(cors(&[good.to_owned()]).unwrap().is_some(), "{good}");
        }
        for bad in ["", "example.org", "https://example.org/", "https://example.org/x", "file:///x", "https://a b"] {
            assert!(matches!(cors(&[bad.to_owned()]), Err(ServeError::Origin(_))), "{bad}");
        }
    }
}
