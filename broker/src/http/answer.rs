//! Answers of JSON.

use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::http::error::Refusal;
use crate::http::media;

/// What a value is as JSON.
pub(crate) fn answer(body: &impl Serialize) -> Result<Response, Refusal> {
    Ok(json(serde_json::to_vec(body)?))
}

/// A body that is JSON already.
pub(crate) fn json(body: Vec<u8>) -> Response {
    let mut response = body.into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media::JSON));
    response
}

/// A page of a list of which one more was asked for than fits: what is on it, and the name to go on behind where
/// there is more.
pub(crate) fn page<T>(mut found: Vec<T>, limit: usize, name: impl Fn(&T) -> String) -> (Vec<T>, Option<String>) {
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(name);
    (found, next)
}
