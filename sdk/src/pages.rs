//! What comes in pages, as a stream.

use std::future::Future;
use std::vec::IntoIter;

use futures::stream::{Stream, try_unfold};

use crate::error::Error;

/// The items of all pages. `read` is given where to go on (nothing: at the beginning), and gives a
/// page and where the next one begins (nothing: there is none).
pub(crate) fn paged<T, F, P>(read: F) -> impl Stream<Item = Result<T, Error>> + Send + use<T, F, P>
where
    T: Send,
    F: Fn(Option<String>) -> P + Send,
    P: Future<Output = Result<(Vec<T>, Option<String>), Error>> + Send,
{
    let begin = Pages { page: Vec::new().into_iter(), after: None, last: false };
    try_unfold((read, begin), |(read, mut pages)| async move {
        loop {
            if let Some(item) = pages.page.next() {
                return Ok(Some((item, (read, pages))));
            }
            if pages.last {
                return Ok(None);
            }
            let (page, next) = read(pages.after.take()).await?;
            pages = Pages { page: page.into_iter(), last: next.is_none(), after: next };
        }
    })
}

struct Pages<T> {
    page: IntoIter<T>,
    /// Where the next page begins.
    after: Option<String>,
    /// There is no next page.
    last: bool,
}
