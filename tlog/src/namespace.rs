//! A namespace as its users hold it.

use std::sync::Arc;

use wire::{Generation, NamespaceConfig, NamespaceId, NamespaceName};

/// A namespace: id, generation, name and configuration. Cheap to clone.
///
/// A handle outlives its namespace: after a delete whatever is asked with it answers that the
/// namespace does not exist, even if another has been created under its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace(Arc<Fields>);

#[derive(Debug, PartialEq, Eq)]
struct Fields {
    id: NamespaceId,
    generation: Generation,
    name: NamespaceName,
    config: NamespaceConfig,
}

impl Namespace {
    pub(crate) fn new(
        id: NamespaceId,
        generation: Generation,
        name: NamespaceName,
        config: NamespaceConfig,
    ) -> Namespace {
        Namespace(Arc::new(Fields { id, generation, name, config }))
    }

    /// Its id.
    pub fn id(&self) -> NamespaceId {
        self.0.id
    }

    /// Which use of the id this is.
    pub fn generation(&self) -> Generation {
        self.0.generation
    }

    /// Its name.
    pub fn name(&self) -> &NamespaceName {
        &self.0.name
    }

    /// Its configuration.
    pub fn config(&self) -> &NamespaceConfig {
        &self.0.config
    }
}
