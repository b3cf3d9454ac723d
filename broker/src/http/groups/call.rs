//! A call on a group: which, with what body, and why it is refused.

use axum::extract::Request;
use axum::http::Uri;
use consumers::groups::GroupsError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tlog::Namespace;
use wire::{Code, GroupName, NamespaceName};

use crate::http::batch::broken;
use crate::http::body::{self, Limit};
use crate::http::error::Refusal;
use crate::http::path;
use crate::http::query::Query;
use crate::state::{Broker, no_namespace};

/// The largest body: 10,000 tokens, and an error.
const LIMIT: Limit = Limit { bytes: 1 << 20, code: Code::InvalidBody };

/// A body without fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// A call on a group of a namespace that exists.
pub(super) struct Call {
    pub(super) namespace: Namespace,
    pub(super) group: GroupName,
}

impl Call {
    /// A call without a body.
    pub(super) fn of(broker: &Broker, uri: &Uri) -> Result<Call, Refusal> {
        let (name, group) = (path::namespace(uri)?, path::group(uri)?);
        Query::parse(uri, &[])?;
        Ok(Call { namespace: broker.namespace(&name)?, group })
    }

    /// A call with a body in JSON.
    pub(super) async fn read<T: DeserializeOwned>(broker: &Broker, request: Request) -> Result<(Call, T), Refusal> {
        let (parts, mut body) = body::split(request, broker);
        let gathered = match body.gather(LIMIT).await {
            Ok(gathered) => gathered,
            Err(refusal) => {
                body.discard().await;
                return Err(refusal);
            }
        };
        let call = Call::of(broker, &parts.uri)?;
        Ok((call, parse(&gathered.bytes)?))
    }

    /// Why the call is refused.
    pub(super) fn refused(&self, error: GroupsError) -> Refusal {
        refused(self.namespace.name(), Some(&self.group), error)
    }
}

/// Why a call on groups is refused.
pub(super) fn refused(namespace: &NamespaceName, group: Option<&GroupName>, error: GroupsError) -> Refusal {
    let group = group.map_or("", |group| group);
    let code = match error {
        GroupsError::GroupNotFound => {
            let detail = format!("the namespace {namespace:?} has no group {group:?}");
            return Refusal::new(Code::GroupNotFound, detail);
        }
        GroupsError::NamespaceNotFound => return no_namespace(namespace),
        GroupsError::PastHead { next_offset } => {
            return Refusal::new(Code::OffsetPastHead, error.to_string()).with_next_offset(next_offset);
        }
        GroupsError::Read(error) => return error.into(),
        GroupsError::Append(error) => return error.into(),
        GroupsError::StartDiffers | GroupsError::NoDeadLetters => Code::GroupConflict,
        GroupsError::Config(_) => Code::InvalidBody,
        GroupsError::TooManyWorkers(_) => Code::TooManyWorkers,
        GroupsError::Closed => Code::ShuttingDown,
        error => return Refusal::internal(error),
    };
    Refusal::new(code, error.to_string())
}

/// An object with the fields of `T`, and no other. An empty body is none: it is nothing where `T` may be.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let body = body.trim_ascii();
    // The parser would take an array for the fields in their order.
    if !body.is_empty() && !body.starts_with(b"{") {
        return Err(Refusal::new(Code::InvalidBody, "the body must be a JSON object"));
    }
    let body = if body.is_empty() { b"null" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        if error.to_string().starts_with("unknown field") {
            return Refusal::new(Code::UnknownField, format!("the body has an {error}"));
        }
        if body == b"null" {
            return Refusal::new(Code::InvalidBody, "the body is missing: a JSON object");
        }
        broken(&error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::GroupConfig;

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Body {
        _worker: String,
    }

    #[test]
    fn a_body_is_read_strictly() {
        let refusal = |body: &str| parse::<Body>(body.as_bytes()).unwrap_err();
        for bad in ["", " ", "[]", "[\"w\"]", "null", "7", "{", "{}", "{\"_worker\":1}"] {
            assert_eq!(refusal(bad).code(), Some(Code::InvalidBody), "{bad}");
        }
        let unknown = refusal("{\"_worker\":\"w\",\"wrkr\":1}");
        assert_eq!(unknown.code(), Some(Code::UnknownField));
        assert!(format!("{unknown:?}").contains("wrkr"));
        assert!(parse::<Body>(b" {\"_worker\":\"w\"} ").is_ok());
        assert_eq!(parse::<Option<GroupConfig>>(b"").unwrap(), None);
        assert_eq!(parse::<Option<GroupConfig>>(b"{}").unwrap(), Some(GroupConfig::default()));
        assert_eq!(parse::<Option<GroupConfig>>(b"{\"x\":1}").unwrap_err().code(), Some(Code::UnknownField));
    }
}
