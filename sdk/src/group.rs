//! Consumer groups: to make one, look at it, move it, and delete it.

use std::time::Duration;

use futures::Stream;
use jiff::Timestamp;
use reqwest::{Method, Request};
use serde::{Deserialize, Serialize};
use wire::{GroupConfig, GroupName, Offset};

use crate::error::Error;
use crate::http::{Repeat, add_query, set_json};
use crate::namespace::{Ensured, Namespace};
use crate::pages::paged;
use crate::worker::WorkerBuilder;

/// A consumer group: workers that share a namespace's records. Cheap to clone; whether it exists is
/// only known once it is used.
#[derive(Clone, Debug)]
pub struct Group {
    namespace: Namespace,
    name: GroupName,
}

/// A group in a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// Its configuration.
    pub config: GroupConfig,
}

/// What a broker says of a group.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GroupState {
    /// Its name.
    pub name: String,
    /// Its configuration.
    pub config: GroupConfig,
    /// All records below are acked.
    pub floor: Offset,
    /// How far it is behind.
    pub lag: GroupLag,
    /// Records that are leased.
    pub in_flight: u64,
    /// Deliveries since the group was last taken up by the broker; so are the next two.
    pub delivered: u64,
    /// Deliveries of records that had been delivered before.
    pub redelivered: u64,
    /// Records that were given up.
    pub dead_lettered: u64,
    /// Whether it is held up by what is not settled: no other records go out until one of those is.
    #[serde(default)]
    pub full: bool,
    /// Who works.
    pub workers: Vec<WorkerState>,
}

/// How far a group is behind.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct GroupLag {
    /// Records that are not acked.
    pub records: u64,
    /// The age of the oldest of them.
    pub seconds: f64,
}

/// A worker of a group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WorkerState {
    /// Its name.
    pub name: String,
    /// Records that are leased to it.
    pub in_flight: u64,
    /// When it last gave a sign of life, RFC 3339.
    pub seen: String,
}

/// Where a group is to go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seek {
    /// With the first record.
    Earliest,
    /// Behind the last record as of the call.
    Latest,
    /// With this offset.
    Offset(Offset),
    /// With the first record that was appended at this time or later.
    Time(Timestamp),
}

#[derive(Serialize)]
#[serde(untagged)]
enum SeekBody {
    Named { to: &'static str },
    Offset { to: Offset },
    Time { time: String },
}

impl From<Seek> for SeekBody {
    fn from(seek: Seek) -> SeekBody {
        match seek {
            Seek::Earliest => SeekBody::Named { to: "earliest" },
            Seek::Latest => SeekBody::Named { to: "latest" },
            Seek::Offset(to) => SeekBody::Offset { to },
            Seek::Time(time) => SeekBody::Time { time: time.to_string() },
        }
    }
}

#[derive(Deserialize)]
struct Moved {
    floor: Offset,
}

#[derive(Deserialize)]
struct Redriven {
    redriven: u64,
}

#[derive(Deserialize)]
struct GroupPage {
    groups: Vec<GroupInfo>,
    /// Where to go on; nothing at the end.
    next: Option<String>,
}

impl Namespace {
    /// The group of this name; nothing is asked of the broker yet.
    ///
    /// # Errors
    /// Where the name is none.
    pub fn group(&self, name: &str) -> Result<Group, Error> {
        Ok(Group { namespace: self.clone(), name: GroupName::new(name)? })
    }

    /// The namespace's groups, in the order of names, read page by page as the stream is polled.
    pub fn groups(&self) -> impl Stream<Item = Result<GroupInfo, Error>> + Send + use<> {
        let namespace = self.clone();
        paged(move |after| {
            let namespace = namespace.clone();
            async move {
                let mut request = namespace.get(&["groups"])?;
                add_query(request.url_mut(), after.map(|after| ("after", after)));
                let page = namespace.client().call_json::<GroupPage>(&request).await?;
                Ok((page.groups, page.next))
            }
        })
    }
}

impl Group {
    /// The group's name.
    pub fn name(&self) -> &GroupName {
        &self.name
    }

    /// The namespace whose records its workers share.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Creates the group, or gives the one that exists this configuration. It keeps what it has acked.
    ///
    /// # Errors
    /// [`wire::Code::GroupConflict`] where it exists and was to begin elsewhere: see [`Group::seek`].
    pub async fn ensure(&self, config: &GroupConfig) -> Result<Ensured, Error> {
        let request = self.request(Method::PUT, &[], Some(config))?;
        let answer = self.namespace.client().call(&request, Repeat::Always, Duration::ZERO).await?;
        Ok(if answer.status == 201 { Ensured::Created } else { Ensured::Existed })
    }

    /// What the broker says of the group.
    ///
    /// # Errors
    /// [`wire::Code::GroupNotFound`] where it does not exist.
    pub async fn state(&self) -> Result<GroupState, Error> {
        self.namespace.client().call_json(&self.request(Method::GET, &[], NOTHING)?).await
    }

    /// Deletes the group, and what it knows of acks. The records stay. Repeated only where it surely
    /// had no effect: otherwise one that was made in between would be deleted as well.
    ///
    /// # Errors
    /// [`wire::Code::GroupNotFound`] where it does not exist.
    pub async fn delete(&self) -> Result<(), Error> {
        let request = self.request(Method::DELETE, &[], NOTHING)?;
        self.namespace.client().call(&request, Repeat::WhenSafe, Duration::ZERO).await.map(drop)
    }

    /// Has the group go on from elsewhere, and forget acks and failures; answers from where.
    pub async fn seek(&self, to: Seek) -> Result<Offset, Error> {
        let request = self.request(Method::POST, &["seek"], Some(&SeekBody::from(to)))?;
        let answer = self.namespace.client().call(&request, Repeat::WhenSafe, Duration::ZERO).await?;
        Ok(answer.json::<Moved>()?.floor)
    }

    /// Publishes the dead letters that the group has made once more, where they came from; answers how many.
    pub async fn redrive(&self) -> Result<u64, Error> {
        let request = self.request(Method::POST, &["redrive"], NOTHING)?;
        let answer = self.namespace.client().call(&request, Repeat::WhenSafe, Duration::ZERO).await?;
        Ok(answer.json::<Redriven>()?.redriven)
    }

    /// A worker: leases records, gives them to a handler, and acks them.
    pub fn worker(&self) -> WorkerBuilder {
        WorkerBuilder::new(self.clone())
    }

    /// A request for the group, with a body in JSON.
    pub(crate) fn request(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&impl Serialize>,
    ) -> Result<Request, Error> {
        let segments = [&["groups", &*self.name], path].concat();
        let mut request = self.namespace.request(method, &segments)?;
        if let Some(body) = body {
            set_json(&mut request, body)?;
        }
        Ok(request)
    }
}

/// No body.
const NOTHING: Option<&()> = None;
