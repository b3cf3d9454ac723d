//! A whole namespace from the log, with proof.

use reqwest::header::{ACCEPT, HeaderValue};
use wire::json::Lost;
use wire::{FRAMES_MEDIA_TYPE, Frame, Offset};

use crate::backoff::Attempts;
use crate::error::Error;
use crate::http::{ByteStream, Repeat, add_query};
use crate::namespace::Namespace;
use crate::verify::{Proof, Verified, Verifier, VerifyError};

/// A rebuild under way: gives the namespace's frames, each verified, and at the end the proof.
///
/// Where records were lost that is an error, [`Error::Lost`], told once where they stood, unless
/// [`Rebuild::with_losses`] was called: so nobody takes what is left for the whole. To go on, call again.
///
/// Where the connection breaks it is opened again and goes on behind the last verified frame.
/// The socket is read by a task of its own, so that reading and verifying overlap.
#[derive(Debug)]
pub struct Rebuild {
    namespace: Namespace,
    verifier: Verifier,
    stream: Option<ByteStream>,
    attempts: Attempts,
    with_losses: bool,
}

impl Rebuild {
    pub(crate) fn new(namespace: Namespace) -> Rebuild {
        let attempts = Attempts::new(namespace.client().inner.backoff);
        Rebuild { namespace, verifier: Verifier::new(), stream: None, attempts, with_losses: false }
    }

    /// Takes losses for frames: [`Rebuild::next`] gives them too, [`Frame::is_loss`] tells them from
    /// others, and [`Proof::lost`] adds them up.
    pub fn with_losses(self) -> Rebuild {
        Rebuild { with_losses: true, ..self }
    }

    /// The next frame, or nothing once all are there and the proof holds.
    ///
    /// # Errors
    /// [`Error::Lost`] where records were lost; what comes next is what comes behind them.
    /// [`Error::Verify`] where the frames do not prove themselves; otherwise what the broker
    /// answers, or the last failure once the client's patience is over.
    pub async fn next(&mut self) -> Result<Option<Frame>, Error> {
        loop {
            match self.verifier.next()? {
                Some(Verified::Frame(frame)) => {
                    self.attempts.succeeded();
                    return Ok(Some(frame));
                }
                Some(Verified::Lost(frame)) => {
                    self.attempts.succeeded();
                    if self.with_losses {
                        return Ok(Some(frame));
                    }
                    return Err(Error::Lost(Lost { from: frame.base_offset(), to: frame.next_offset() }));
                }
                Some(Verified::Proof(_)) => self.stream = None,
                None if self.verifier.proof().is_some() => return Ok(None),
                None => self.more().await?,
            }
        }
    }

    /// Reads on to the end, for the sake of the proof alone.
    ///
    /// # Errors
    /// As [`Rebuild::next`].
    pub async fn finish(mut self) -> Result<Proof, Error> {
        while self.next().await?.is_some() {}
        Ok(self.verifier.end()?)
    }

    /// The offset up to which all is proved.
    pub fn next_offset(&self) -> Offset {
        self.verifier.next_offset()
    }

    /// The proof, once [`Rebuild::next`] has given nothing more.
    pub fn proof(&self) -> Option<&Proof> {
        self.verifier.proof()
    }

    /// Reads more bytes; where that fails, and may work later, waits and opens the stream anew.
    async fn more(&mut self) -> Result<(), Error> {
        match self.read().await {
            Ok(()) => Ok(()),
            Err(error) => {
                self.stream = None;
                let wait = if Repeat::Always.allows(&error) { self.attempts.failed(&error) } else { None };
                let Some(wait) = wait else { return Err(error) };
                tracing::warn!(next_offset = self.next_offset(), %error, ?wait, "the rebuild broke off, going on");
                tokio::time::sleep(wait).await;
                Ok(())
            }
        }
    }

    async fn read(&mut self) -> Result<(), Error> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            closed => {
                self.verifier.resume();
                closed.insert(open(&self.namespace, self.verifier.next_offset()).await?)
            }
        };
        match stream.next().await? {
            Some(bytes) => self.verifier.push(&bytes),
            None => return Err(Error::Broken(VerifyError::CutOff { at: self.verifier.next_offset() }.to_string())),
        }
        Ok(())
    }
}

async fn open(namespace: &Namespace, from: Offset) -> Result<ByteStream, Error> {
    let mut request = namespace.get(&["rebuild"])?;
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static(FRAMES_MEDIA_TYPE));
    add_query(request.url_mut(), (from > 0).then(|| ("from", from.to_string())));
    namespace.client().open(request).await
}
