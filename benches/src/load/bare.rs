//! A server that writes what is published to all who follow, and does nothing else: the limit of a fan-out on this
//! machine, with one thread. What comes while it writes is gathered into the next write, as a log may.
//!
//! ```text
//! publisher: p STREAM ' ' VALUE \n    answered with \n
//! follower:  f STREAM \n              answered with \n, and then with the lines of the stream's publishers
//! ```

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::net::Ipv4Addr;
use std::rc::Rc;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};

use crate::failure::Failure;

/// What a publisher's line begins with.
pub(crate) const PUBLISH: char = 'p';

/// What a follower's line begins with.
pub(crate) const FOLLOW: char = 'f';

/// What is published, by stream.
type Streams = Rc<RefCell<HashMap<Vec<u8>, Rc<Stream>>>>;

#[derive(Debug, Default)]
struct Stream {
    followers: RefCell<Vec<Rc<TcpStream>>>,
    /// What has come and was not written.
    gathered: RefCell<Vec<u8>>,
    more: Notify,
}

/// Says on standard output where it listens, and ends when its standard input does.
pub(crate) fn serve() -> Result<(), Failure> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let stdin_ended = runtime.spawn_blocking(|| io::stdin().lock().lines().for_each(drop));
    let served = runtime.block_on(LocalSet::new().run_until(async {
        tokio::select! {
            served = accept() => served,
            _ = stdin_ended => Ok(()),
        }
    }));
    runtime.shutdown_background();
    served
}

async fn accept() -> Result<(), Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?);
    io::stdout().flush()?;
    let streams = Streams::default();
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        spawn_local(connection(socket, Rc::clone(&streams)));
    }
}

/// A publisher or a follower, as its lines say.
async fn connection(socket: TcpStream, streams: Streams) -> io::Result<()> {
    let (mut socket, mut line) = (BufReader::new(socket), Vec::new());
    while socket.read_until(b'\n', &mut line).await? > 0 {
        let name = line.split(|byte| b" \n".contains(byte)).next().unwrap_or_default();
        let stream =
            Rc::clone(streams.borrow_mut().entry(name.get(1..).unwrap_or_default().to_vec()).or_insert_with(begin));
        socket.write_all(b"\n").await?;
        if line.first() == Some(&(FOLLOW as u8)) {
            stream.followers.borrow_mut().push(Rc::new(socket.into_inner()));
            return Ok(());
        }
        stream.gathered.borrow_mut().extend_from_slice(&line);
        stream.more.notify_one();
        line.clear();
    }
    Ok(())
}

/// A stream, and what writes it to its followers.
fn begin() -> Rc<Stream> {
    let stream = Rc::new(Stream::default());
    let writes = Rc::clone(&stream);
    spawn_local(async move {
        loop {
            writes.more.notified().await;
            let records = writes.gathered.take();
            // Cloned, so that the list is free while a follower is waited for.
            let followers = writes.followers.borrow().clone();
            for follower in followers {
                write_all(&follower, &records).await;
            }
        }
    });
    stream
}

async fn write_all(socket: &TcpStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match socket.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => _ = socket.writable().await,
            // It has gone.
            Err(_) => return,
        }
    }
}
