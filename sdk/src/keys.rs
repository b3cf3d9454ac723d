//! A namespace read by key: the latest record of one, or of a range of keys.

use std::time::Duration;

use futures::stream::{Stream, StreamExt};
use serde::Deserialize;
use wire::json::RecordJson;
use wire::{Code, NewRecord, Offset};

use crate::error::Error;
use crate::http::{Repeat, add_query};
use crate::namespace::Namespace;
use crate::pages::paged;
use crate::publish::Published;
use crate::record::Record;

/// Which keys a range covers, in the order of their bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Range {
    /// Only keys that begin with this.
    pub prefix: String,
    /// The first key, or the first behind it.
    pub from: Option<String>,
    /// The end: this key, and all behind it, are left out.
    pub to: Option<String>,
}

impl Range {
    /// All keys.
    pub fn all() -> Range {
        Range::default()
    }

    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<String>) -> Range {
        Range { prefix: prefix.into(), ..Range::default() }
    }
}

impl Namespace {
    /// The latest record of a key; nothing where it has none, or was deleted. With `min_offset` the
    /// answer is at least as new as that offset: the broker waits until it is.
    ///
    /// # Errors
    /// [`Code::NotCaughtUp`] where the wait was too long.
    pub async fn latest(&self, key: &str, min_offset: Option<Offset>) -> Result<Option<Record>, Error> {
        let mut request = self.get(&["keys", key])?;
        add_query(request.url_mut(), min_offset.map(|offset| ("min_offset", offset.to_string())));
        let answered = self.client().call(&request, Repeat::Always, Duration::ZERO).await;
        match answered {
            Ok(answer) => Record::of_json(answer.json::<RecordJson>()?).map(Some),
            Err(error) if error.code() == Some(Code::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives a key a value: a publish of a record with that key.
    pub async fn put(&self, key: &str, value: &NewRecord<'_>) -> Result<Published, Error> {
        self.publish(&value.with_key(key)).await
    }

    /// Deletes a key: a publish of a tombstone.
    pub async fn delete_key(&self, key: &str) -> Result<Published, Error> {
        self.publish(&NewRecord::tombstone(key)).await
    }

    /// The latest records of a range of keys, in the order of the keys, read page by page as the
    /// stream is polled. A key that changes in the meantime may come as it was or as it is.
    pub fn range(&self, range: Range) -> impl Stream<Item = Result<Record, Error>> + Send + use<> {
        let namespace = self.clone();
        let pages = paged(move |after| {
            let (namespace, range) = (namespace.clone(), range.clone());
            async move { namespace.range_page(range, after).await }
        });
        pages.map(|record| Record::of_json(record?))
    }

    async fn range_page(
        &self,
        range: Range,
        after: Option<String>,
    ) -> Result<(Vec<RecordJson>, Option<String>), Error> {
        let mut request = self.get(&["keys"])?;
        let prefix = (!range.prefix.is_empty()).then_some(range.prefix);
        let given = [("prefix", prefix), ("from", range.from), ("to", range.to), ("after", after)];
        add_query(request.url_mut(), given.into_iter().filter_map(|(name, value)| Some((name, value?))));
        let page = self.client().call_json::<KeyPage>(&request).await?;
        Ok((page.records, page.next))
    }
}

#[derive(Deserialize)]
struct KeyPage {
    records: Vec<RecordJson>,
    /// Where to go on; nothing at the end.
    next: Option<String>,
}
