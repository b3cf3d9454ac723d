//! A call on a group: which, with what body, and why it is refused.

use axum::extract::Request;
use axum::http::Uri;
use consumers::groups::GroupsError;
use serde::de::DeserializeOwned;
use tlog::Namespace;
use wire::{Code, GroupName, NamespaceName};

use crate::http::body::{self, Limit};
use crate::http::error::Refusal;
use crate::http::query::Query;
use crate::http::{path, strict};
use crate::state::{Broker, no_namespace};

/// The largest body: 10,000 tokens, and an error.
const LIMIT: Limit = Limit { bytes: 1 << 20, code: Code::InvalidBody };

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
        let (parts, gathered) = body::gather(request, broker, LIMIT).await?;
        let call = Call::of(broker, &parts.uri)?;
        Ok((call, strict::parse(&gathered.bytes)?))
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
