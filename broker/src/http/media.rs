//! Media types: what a body says it is, and what a caller accepts.

use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use wire::{Code, FRAMES_MEDIA_TYPE};

use crate::http::error::Refusal;

/// Media type of JSON.
pub(crate) const JSON: &str = "application/json";

/// Media type of a JSON text a line.
pub(crate) const NDJSON: &str = "application/x-ndjson";

/// Media type of Server-Sent Events.
pub(crate) const EVENTS: &str = "text/event-stream";

/// What `curl -d` says of a body. No call takes a form, so it can only be meant as text.
const CURL_DEFAULT: &str = "application/x-www-form-urlencoded";

/// What a body says it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BodyType {
    /// `application/json`.
    Json,
    /// `application/x-ndjson`.
    Ndjson,
    /// `application/vnd.tlog.frames`.
    Frames,
    /// `text/*`, and what `curl -d` calls its bodies where it is told nothing.
    Text,
    /// Something else, or nothing.
    Other,
}

/// What the body of a request with this header is.
pub(crate) fn body_type(headers: &HeaderMap) -> BodyType {
    let Some(value) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return BodyType::Other;
    };
    let essence = value.split(';').next().unwrap_or_default().trim();
    let is = |media_type: &str| essence.eq_ignore_ascii_case(media_type);
    match essence.split_once('/') {
        _ if is(JSON) => BodyType::Json,
        _ if is(NDJSON) => BodyType::Ndjson,
        _ if is(FRAMES_MEDIA_TYPE) => BodyType::Frames,
        _ if is(CURL_DEFAULT) => BodyType::Text,
        Some((kind, _)) if kind.eq_ignore_ascii_case("text") => BodyType::Text,
        _ => BodyType::Other,
    }
}

/// Which of the offered media types the caller likes best; the first of those that it likes alike.
///
/// # Errors
/// [`Code::NotAcceptable`] where it accepts none of them.
pub(crate) fn negotiate(headers: &HeaderMap, offered: &[&'static str]) -> Result<&'static str, Refusal> {
    let accepted: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let accepted = accepted.join(",");
    let mut best = (if accepted.trim().is_empty() { 1000 } else { 0 }, offered.first().copied());
    for media_type in offered {
        let quality = quality(&accepted, media_type);
        if quality > best.0 {
            best = (quality, Some(media_type));
        }
    }
    match best {
        (1.., Some(media_type)) => Ok(media_type),
        _ => {
            let detail = format!("{accepted:?} is accepted, {} can be answered", offered.join(", "));
            Err(Refusal::new(Code::NotAcceptable, detail))
        }
    }
}

/// How much a media type is liked, thousandths: the weight of the most specific range that it is in.
fn quality(accepted: &str, media_type: &str) -> u16 {
    let kind = media_type.split('/').next().unwrap_or_default();
    let mut found = (0, 0);
    for range in accepted.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let specific = match name.split_once('/') {
            _ if name.eq_ignore_ascii_case(media_type) => 3,
            Some((of, "*")) if of.eq_ignore_ascii_case(kind) => 2,
            Some(("*", "*")) => 1,
            _ => 0,
        };
        if specific > found.0 {
            found = (specific, weight(parts));
        }
    }
    found.1
}

/// A range's `q`, thousandths; 1000 where it has none, 0 where it is malformed.
fn weight<'a>(mut parameters: impl Iterator<Item = &'a str>) -> u16 {
    let q = parameters.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    });
    let Some(q) = q else { return 1000 };
    let (whole, fraction) = q.split_once('.').unwrap_or((q, ""));
    let digits = fraction.len() <= 3 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    match (whole, format!("{fraction:0<3}").parse()) {
        ("0", Ok(thousandths)) if digits => thousandths,
        ("1", Ok(0)) if digits => 1000,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFERED: &[&str] = &[JSON, NDJSON, FRAMES_MEDIA_TYPE];

    fn answer(accept: &str) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        negotiate(&headers, OFFERED).ok()
    }

    #[test]
    fn the_best_liked_is_answered() {
        assert_eq!(negotiate(&HeaderMap::new(), OFFERED).unwrap(), JSON);
        assert_eq!(answer(""), Some(JSON));
        assert_eq!(answer("*/*"), Some(JSON));
        assert_eq!(answer("application/*"), Some(JSON));
        assert_eq!(answer("application/x-ndjson"), Some(NDJSON));
        assert_eq!(answer("Application/X-NDJSON; q=0.5"), Some(NDJSON));
        assert_eq!(answer("application/json;q=0.5, application/x-ndjson"), Some(NDJSON));
        assert_eq!(answer("text/html, application/xhtml+xml, */*;q=0.8"), Some(JSON));
        assert_eq!(answer("application/vnd.tlog.frames;v=1;q=0.900, */*;q=0.1"), Some(FRAMES_MEDIA_TYPE));
        assert_eq!(answer("application/json;q=0.0, application/*"), Some(NDJSON));
        assert_eq!(answer("*/*;q=0.5, application/json;q=0.4"), Some(NDJSON));
    }

    #[test]
    fn what_is_not_offered_is_refused() {
        for accept in ["text/html", "application/json;q=0", "json", "application/json;q=2", "text/*", "a/b, */*;q=0"] {
            assert_eq!(answer(accept), None, "{accept}");
        }
    }

    #[test]
    fn a_body_is_what_it_says() {
        let kind = |content_type: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
            body_type(&headers)
        };
        assert_eq!(kind("application/JSON; charset=utf-8"), BodyType::Json);
        assert_eq!(kind("application/x-ndjson"), BodyType::Ndjson);
        assert_eq!(kind("application/vnd.tlog.frames"), BodyType::Frames);
        assert_eq!(kind("text/plain;charset=utf-8"), BodyType::Text);
        assert_eq!(kind("application/x-www-form-urlencoded"), BodyType::Text);
        assert_eq!(kind("application/jsonp"), BodyType::Other);
        assert_eq!(body_type(&HeaderMap::new()), BodyType::Other);
    }
}
