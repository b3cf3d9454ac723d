//! What a path and a query spell: percent-encoded text, strictly read.
//!
//! Names stand in paths as one segment each, so that `%2F` is a part of a name. Paths are taken
//! apart here rather than by the router, which answers in plain text and takes `%zz` for itself.

use std::borrow::Cow;

use axum::http::Uri;
use percent_encoding::percent_decode_str;
use wire::name::{NameError, check_key};
use wire::{Code, GroupName, LockName, NamespaceName, SubscriberName};

use crate::http::error::Refusal;

/// The segment of `/v1/namespaces/{ns}`, counted from 0.
const NAMESPACE_AT: usize = 2;

/// The segment of `/v1/namespaces/{ns}/keys/{key}`.
const KEY_AT: usize = 4;

/// The segment of `/v1/namespaces/{ns}/groups/{group}`.
const GROUP_AT: usize = 4;

/// The segment of `/v1/locks/{lock}`.
const LOCK_AT: usize = 2;

/// The segment of `/v1/subscribers/{name}`.
const SUBSCRIBER_AT: usize = 2;

/// The segment of `/v1/objects/{id}` and `/v1/stores/{shard}`.
const ID_AT: usize = 2;

/// The namespace's name in `/v1/namespaces/{ns}…`.
pub(crate) fn namespace(uri: &Uri) -> Result<NamespaceName, Refusal> {
    let broken = || Refusal::new(Code::InvalidName, "the namespace's name has a % that no two hex digits follow");
    let bytes = percent_decode(segment(uri, NAMESPACE_AT)).ok_or_else(broken)?;
    Ok(NamespaceName::from_bytes(&bytes)?)
}

/// The key in `/v1/namespaces/{ns}/keys/{key}`.
pub(crate) fn key(uri: &Uri) -> Result<String, Refusal> {
    let broken = || Refusal::new(Code::InvalidKey, "the key has a % that no two hex digits follow");
    let bytes = percent_decode(segment(uri, KEY_AT)).ok_or_else(broken)?;
    let key = std::str::from_utf8(&bytes).map_err(|_| NameError::NotUtf8 { what: "the key" })?;
    check_key(key)?;
    Ok(key.to_owned())
}

/// The group's name in `/v1/namespaces/{ns}/groups/{group}…`.
pub(crate) fn group(uri: &Uri) -> Result<GroupName, Refusal> {
    let refusal = |why: String| Refusal::new(Code::InvalidGroup, why);
    let broken = || refusal("the group's name has a % that no two hex digits follow".to_owned());
    let bytes = percent_decode(segment(uri, GROUP_AT)).ok_or_else(broken)?;
    GroupName::from_bytes(&bytes).map_err(|error| refusal(error.to_string()))
}

/// The lock's name in `/v1/locks/{lock}…`.
pub(crate) fn lock(uri: &Uri) -> Result<LockName, Refusal> {
    let refusal = |why: String| Refusal::new(Code::InvalidLock, why);
    let broken = || refusal("the lock's name has a % that no two hex digits follow".to_owned());
    let bytes = percent_decode(segment(uri, LOCK_AT)).ok_or_else(broken)?;
    LockName::from_bytes(&bytes).map_err(|error| refusal(error.to_string()))
}

/// The subscriber's name in `/v1/subscribers/{name}…`.
pub(crate) fn subscriber(uri: &Uri) -> Result<SubscriberName, Refusal> {
    let refusal = |why: String| Refusal::new(Code::InvalidSubscriber, why);
    let broken = || refusal("the subscriber's name has a % that no two hex digits follow".to_owned());
    let bytes = percent_decode(segment(uri, SUBSCRIBER_AT)).ok_or_else(broken)?;
    SubscriberName::from_bytes(&bytes).map_err(|error| refusal(error.to_string()))
}

/// The id in `/v1/objects/{id}…`, the shard in `/v1/stores/{shard}…`: neither needs an escape.
pub(crate) fn id(uri: &Uri) -> &str {
    segment(uri, ID_AT)
}

fn segment(uri: &Uri, index: usize) -> &str {
    uri.path().split('/').nth(index + 1).unwrap_or_default()
}

/// The bytes that a text spells; nothing where a `%` is not followed by two hex digits.
pub(crate) fn percent_decode(text: &str) -> Option<Cow<'_, [u8]>> {
    let mut escapes = text.as_bytes().split(|byte| *byte == b'%');
    // What stands before the first %.
    escapes.next();
    let whole = |rest: &[u8]| rest.len() >= 2 && rest[..2].iter().all(u8::is_ascii_hexdigit);
    escapes.all(whole).then(|| percent_decode_str(text).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(path: &str) -> Result<String, Option<Code>> {
        namespace(&path.parse().unwrap()).map(|name| name.to_string()).map_err(|refusal| refusal.code())
    }

    #[test]
    fn a_name_is_one_segment_however_it_is_spelled() {
        assert_eq!(name("/v1/namespaces/orders"), Ok("orders".into()));
        assert_eq!(name("/v1/namespaces/a%2Fb%2fc/records?from=1"), Ok("a/b/c".into()));
        assert_eq!(name("/v1/namespaces/%E6%9D%B1+%25/records"), Ok("東+%".into()));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let refused = Err(Some(Code::InvalidName));
        for bad in ["", "%", "%4", "%zz", "a%2", "%FF", "%0D", "a%0Ab", "%00", "%C2%85"] {
            assert_eq!(name(&format!("/v1/namespaces/{bad}/records")), refused, "{bad}");
        }
        assert_eq!(name(&format!("/v1/namespaces/{}", "a".repeat(256))), refused);
        assert!(name(&format!("/v1/namespaces/{}", "a".repeat(255))).is_ok());
    }

    #[test]
    fn a_group_is_one_segment_too() {
        let read = |path: &str| group(&path.parse().unwrap()).map_err(|refusal| refusal.code());
        assert_eq!(read("/v1/namespaces/n/groups/a%2Fb/lease").unwrap().to_string(), "a/b");
        for bad in ["", "%", "%FF", "%0A", "%2E%2e"] {
            let path = format!("/v1/namespaces/n/groups/{bad}/lease");
            assert_eq!(read(&path), Err(Some(Code::InvalidGroup)), "{bad}");
        }
    }

    #[test]
    fn a_subscriber_is_one_segment_too() {
        let read = |path: &str| subscriber(&path.parse().unwrap()).map_err(|refusal| refusal.code());
        assert_eq!(read("/v1/subscribers/a%2Fb/events").unwrap().to_string(), "a/b");
        for bad in ["", "%", "%FF", "%0A", "%2E%2e"] {
            assert_eq!(read(&format!("/v1/subscribers/{bad}/events")), Err(Some(Code::InvalidSubscriber)), "{bad}");
        }
    }

    #[test]
    fn a_key_is_one_segment_too() {
        let read = |path: &str| key(&path.parse().unwrap()).map_err(|refusal| refusal.code());
        assert_eq!(read("/v1/namespaces/n/keys/o%2F17"), Ok("o/17".into()));
        for bad in ["", "%", "%FF", "%0A"] {
            assert_eq!(read(&format!("/v1/namespaces/n/keys/{bad}")), Err(Some(Code::InvalidKey)), "{bad}");
        }
    }
}
