//! What the calls work on.

use std::sync::Arc;

use consumers::groups::Groups;
use consumers::locks::Locks;
use consumers::rooms::Rooms;
use consumers::{Ledger, Stores};
use metrics_exporter_prometheus::PrometheusHandle;
use tlog::{Log, Namespace};
use tokio_util::sync::CancellationToken;
use wire::Code;

use crate::config::Timeouts;
use crate::http::body::BodyBudget;
use crate::http::error::Refusal;
use crate::http::outgoing::Outgoing;
use crate::http::reads::Reads;

/// What every call works on.
#[derive(Debug)]
pub(crate) struct Broker {
    /// The log.
    pub(crate) log: Log,
    /// The stores that are made from it.
    pub(crate) stores: Stores,
    /// What is kept of those who work on its records.
    pub(crate) ledger: Arc<Ledger>,
    /// Who works on its records.
    pub(crate) groups: Groups,
    /// Who holds what.
    pub(crate) locks: Locks,
    /// Who follows which of its rooms.
    pub(crate) rooms: Rooms,
    /// Cancelled when shutdown begins: streams and waits end.
    pub(crate) closing: CancellationToken,
    /// How long to wait for what.
    pub(crate) timeouts: Timeouts,
    /// Memory for bodies that are gathered.
    pub(crate) bodies: BodyBudget,
    /// Memory for what is being sent.
    pub(crate) outgoing: Outgoing,
    /// Reads of the stores.
    pub(crate) reads: Reads,
    /// What renders the metrics.
    pub(crate) metrics: PrometheusHandle,
}

/// The broker as handlers share it.
pub(crate) type Shared = axum::extract::State<Arc<Broker>>;

impl Broker {
    /// The namespace of this name, which must exist.
    pub(crate) fn namespace(&self, name: &str) -> Result<Namespace, Refusal> {
        self.log.namespace(name)?.ok_or_else(|| no_namespace(name))
    }
}

/// That there is no namespace of this name.
pub(crate) fn no_namespace(name: &str) -> Refusal {
    Refusal::new(Code::NamespaceNotFound, format!("there is no namespace {name:?}"))
}
