//! A group's name.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use wire::NameError;
use wire::name::check_group;

/// A group's name: what holds for a namespace's holds for it. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupName(Arc<str>);

impl GroupName {
    /// Checks a text and takes it as a name.
    ///
    /// # Errors
    /// Where it is empty, too long, or holds a control character.
    pub fn new(name: &str) -> Result<GroupName, NameError> {
        check_group(name)?;
        Ok(GroupName(name.into()))
    }
}

impl Deref for GroupName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
