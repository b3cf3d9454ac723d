//! Locks: one owner at a time, by name, over crashes of clients and of the broker.
//!
//! | file | what it knows |
//! |---|---|
//! | this one | the calls; asking until the lock is there |
//! | [`held`] | a lock that is held: kept alive, given back |

mod held;

use std::time::Duration;

use reqwest::Method;
use reqwest::Request;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use wire::limits::{DEFAULT_LOCK_TTL_MS, MAX_LOCK_TTL_MS, MAX_WAIT_MS};
use wire::name::check_owner;
use wire::{Code, LockName, Offset, Retry};

use crate::backoff::Attempts;
use crate::client::Client;
use crate::error::Error;
use crate::publisher::random_id;
pub use held::HeldLock;

/// A lock. Cheap to clone; nothing is asked of the broker until it is used.
#[derive(Clone, Debug)]
pub struct Lock {
    client: Client,
    name: LockName,
}

/// What a broker says of a lock that is held.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LockState {
    /// Its name.
    pub name: String,
    /// Who holds it.
    pub owner: String,
    /// The holder's token: those before it had lower ones.
    pub token: Offset,
    /// When the holder's time is over, if nothing more is heard of it: RFC 3339, by the broker's clock.
    pub expires: String,
    /// How many wait for it.
    pub waiting: u64,
}

/// How a lock is asked for.
#[derive(Clone, Debug)]
pub struct Acquire {
    lock: Lock,
    owner: Option<String>,
    ttl: Duration,
    wait: Duration,
}

#[derive(Serialize)]
struct AskBody<'a> {
    owner: &'a str,
    ttl_ms: u64,
    wait_ms: u64,
}

#[derive(Serialize)]
struct ExtendBody {
    token: Offset,
    ttl_ms: u64,
}

#[derive(Serialize)]
struct ReleaseBody {
    token: Offset,
}

#[derive(Deserialize)]
struct Granted {
    token: Offset,
}

impl Client {
    /// The lock of this name; nothing is asked of the broker yet.
    ///
    /// # Errors
    /// Where the name is none.
    pub fn lock(&self, name: &str) -> Result<Lock, Error> {
        Ok(Lock { client: self.clone(), name: LockName::new(name)? })
    }
}

impl Lock {
    /// The lock's name.
    pub fn name(&self) -> &LockName {
        &self.name
    }

    /// Who holds the lock, if anyone does.
    pub async fn state(&self) -> Result<Option<LockState>, Error> {
        match self.client.call_json(&self.request(Method::GET, &[])?).await {
            Ok(state) => Ok(Some(state)),
            Err(error) if error.code() == Some(Code::LockNotHeld) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for the lock: see [`Acquire::ask`].
    pub fn acquire(&self) -> Acquire {
        let ttl = Duration::from_millis(DEFAULT_LOCK_TTL_MS.into());
        Acquire { lock: self.clone(), owner: None, ttl, wait: Duration::ZERO }
    }

    async fn extend(&self, token: Offset, ttl: Duration, timeout: Duration) -> Result<(), Error> {
        let body = ExtendBody { token, ttl_ms: millis(ttl) };
        self.client.answer(self.post(&["extend"], &body)?, timeout).await.map(drop)
    }

    /// Gives the lock back. Where the broker was asked before and no answer came, it may be that which took effect.
    async fn release(&self, token: Offset) -> Result<(), Error> {
        let request = self.post(&["release"], &ReleaseBody { token })?;
        let mut attempts = Attempts::new(self.client.inner.backoff);
        let mut unsure = false;
        loop {
            let error = match self.client.answer(crate::http::copy(&request)?, self.client.inner.timeout).await {
                Ok(_) => return Ok(()),
                Err(error) if unsure && error.code() == Some(Code::LockLost) => return Ok(()),
                Err(error) => error,
            };
            unsure |= error.retry() == Retry::Unknown;
            let wait = if error.retry() == Retry::Never { None } else { attempts.failed(&error) };
            tokio::time::sleep(wait.ok_or(error)?).await;
        }
    }

    fn post(&self, path: &[&str], body: &impl Serialize) -> Result<Request, Error> {
        let mut request = self.request(Method::POST, path)?;
        let body = serde_json::to_vec(body).map_err(|error| Error::Reply(error.to_string()))?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(body.into());
        Ok(request)
    }

    fn request(&self, method: Method, path: &[&str]) -> Result<Request, Error> {
        let mut request = self.client.request(method, &[&["v1", "locks", &*self.name], path].concat())?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        Ok(request)
    }
}

impl Acquire {
    /// What the owner calls itself, 1 to 255 bytes; if not set, a random name. An owner that holds the lock gets it
    /// again: so no two may have the same.
    pub fn owner(self, owner: impl Into<String>) -> Acquire {
        Acquire { owner: Some(owner.into()), ..self }
    }

    /// How long the lock stays held if its owner dies, up to a day; 30 s if not set.
    pub fn ttl(self, ttl: Duration) -> Acquire {
        Acquire { ttl: ttl.clamp(Duration::from_millis(1), Duration::from_millis(MAX_LOCK_TTL_MS.into())), ..self }
    }

    /// How long to wait for the lock, behind those that came before; not at all if not set. After each minute the
    /// wait begins anew, behind the others.
    pub fn wait(self, wait: Duration) -> Acquire {
        Acquire { wait, ..self }
    }

    /// Asks for the lock, and waits for it. It is kept alive until it is released or dropped.
    ///
    /// # Errors
    /// [`wire::Code::LockHeld`] where another held it for all of that time.
    pub async fn ask(self) -> Result<HeldLock, Error> {
        let owner = match self.owner {
            Some(owner) => owner,
            None => random_id()?,
        };
        check_owner(&owner)?;
        let Acquire { lock, ttl, wait, .. } = self;
        let until = Instant::now().checked_add(wait);
        let mut attempts = Attempts::new(lock.client.inner.backoff);
        loop {
            let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
            match lock.ask_once(&owner, ttl, left).await {
                Ok((token, since)) => return Ok(HeldLock::keep(lock, owner, token, ttl, since)),
                // The wait of one request is bounded, and so it may not have been all of it.
                Err(error) if matches!(error.code(), Some(Code::LockHeld | Code::LockLost)) => {
                    if until.is_some_and(|until| until <= Instant::now()) {
                        return Err(error);
                    }
                    attempts.succeeded();
                }
                // Whatever became of it, it is safe to ask again: the owner is the same.
                Err(error) => {
                    let wait = if error.retry() == Retry::Never { None } else { attempts.failed(&error) };
                    tokio::time::sleep(wait.ok_or(error)?).await;
                }
            }
        }
    }
}

impl Lock {
    /// Asks once. Answers the token, and from when on the time of the lock surely counts.
    async fn ask_once(&self, owner: &str, ttl: Duration, wait: Duration) -> Result<(Offset, Instant), Error> {
        let wait = wait.min(Duration::from_millis(MAX_WAIT_MS));
        let body = AskBody { owner, ttl_ms: millis(ttl), wait_ms: millis(wait) };
        let (request, timeout) = (self.post(&[], &body)?, self.client.inner.timeout);
        let asked = Instant::now();
        let Granted { token } = self.client.answer(request, timeout.saturating_add(wait)).await?.json()?;
        if asked.elapsed() < held::extend_every(ttl) {
            return Ok((token, asked));
        }
        // It waited, and who knows how long ago its time began.
        let asked = Instant::now();
        self.extend(token, ttl, timeout).await?;
        Ok((token, asked))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
