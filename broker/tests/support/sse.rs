//! A reader of Server-Sent Events, after the WHATWG's parsing rules as far as the broker uses them.

use bytes::BytesMut;
use futures::StreamExt;
use futures::stream::BoxStream;
use reqwest::{Client, Response, StatusCode};

/// One event.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Event {
    /// Its name; empty for a plain message.
    pub event: String,
    /// Its `id:`.
    pub id: String,
    /// Its `data:` lines, joined by LF.
    pub data: String,
}

/// Events as they arrive. Dropping it cuts the connection.
pub struct Events {
    body: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    buffer: BytesMut,
    building: Event,
    has_data: bool,
}

impl Events {
    /// Connects, with `Last-Event-ID` where one is given.
    pub async fn connect(client: &Client, url: &str, last_event_id: Option<&str>) -> Events {
        let mut request = client.get(url).header("accept", "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        Events::from_response(request.send().await.unwrap())
    }

    /// Reads the events of an answer of 200.
    pub fn from_response(response: Response) -> Events {
        assert_eq!(response.status(), StatusCode::OK, "{}", response.url());
        assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
        Events {
            body: response.bytes_stream().boxed(),
            buffer: BytesMut::new(),
            building: Event::default(),
            has_data: false,
        }
    }

    /// The next event; nothing where the stream has ended.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some(line) = self.take_line() {
                if let Some(event) = self.line(&line) {
                    return Some(event);
                }
            }
            self.buffer.extend_from_slice(&self.body.next().await?.ok()?);
        }
    }

    fn take_line(&mut self) -> Option<String> {
        let end = self.buffer.iter().position(|b| *b == b'\n')?;
        let line = self.buffer.split_to(end + 1);
        Some(std::str::from_utf8(&line).unwrap().trim_end_matches(['\r', '\n']).to_owned())
    }

    /// Takes a line; answers an event where it ends one.
    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let event = std::mem::take(&mut self.building);
            return std::mem::take(&mut self.has_data).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.building.event),
            "id" => value.clone_into(&mut self.building.id),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.building.data.push('\n');
                }
                self.building.data.push_str(value);
            }
            // A comment, a retry hint, or a field of the future.
            _ => {}
        }
        None
    }
}
