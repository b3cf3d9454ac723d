//! Server-Sent Events, after the parsing rules of the WHATWG's HTML standard, section 9.2.6.
//!
//! A line ends with LF, CR or CRLF; an empty line ends an event; `field: value` sets a field;
//! a line that begins with a colon is a comment. `data` lines are joined with LF, `id` outlives
//! its event, an event without data is none.

/// Most bytes of one event: a record of the largest size, spelled as JSON at its worst.
const MAX_EVENT_BYTES: usize = 8 * wire::limits::MAX_RECORD_BYTES;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Event {
    /// Its name; empty for a plain message.
    pub(crate) name: String,
    /// Its data, lines joined with LF.
    pub(crate) data: String,
}

/// An event is over its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is over {MAX_EVENT_BYTES} bytes")]
pub(crate) struct TooLarge;

/// Takes bytes as they come, and gives events.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    /// The first line has been seen, and with it a byte order mark if there is one.
    began: bool,
    /// The last byte was CR: an LF that follows is a part of the same line end.
    after_cr: bool,
    name: Vec<u8>,
    data: Vec<u8>,
    id: String,
    last_event_id: String,
}

impl Parser {
    /// A parser that goes on where an earlier connection had this id.
    pub(crate) fn after(last_event_id: String) -> Parser {
        Parser { id: last_event_id.clone(), last_event_id, ..Parser::default() }
    }

    /// The `id` as of the last event, or of the last one that only had an id; empty: none yet.
    pub(crate) fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// Takes bytes up to the end of an event: moves `bytes` behind it, and gives it. Nothing: all
    /// bytes are taken.
    pub(crate) fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<Event>, TooLarge> {
        loop {
            if self.after_cr && !bytes.is_empty() {
                self.after_cr = false;
                *bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let part = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + part.len() + self.data.len() + self.name.len() > MAX_EVENT_BYTES {
                return Err(TooLarge);
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else {
                *bytes = &[];
                return Ok(None);
            };
            self.after_cr = bytes[end] == b'\r';
            *bytes = &bytes[end + 1..];
            if let Some(event) = self.line_ended() {
                return Ok(Some(event));
            }
        }
    }

    fn line_ended(&mut self) -> Option<Event> {
        let mut taken = std::mem::take(&mut self.line);
        if !std::mem::replace(&mut self.began, true) && taken.starts_with(BYTE_ORDER_MARK) {
            taken.drain(..BYTE_ORDER_MARK.len());
        }
        let event = if taken.is_empty() { self.event_ended() } else { None };
        let colon = taken.iter().position(|byte| *byte == b':');
        let (field, value) = taken.split_at(colon.unwrap_or(taken.len()));
        let value = value.strip_prefix(b":").unwrap_or(value);
        self.field(field, value.strip_prefix(b" ").unwrap_or(value));
        taken.clear();
        self.line = taken;
        event
    }

    fn field(&mut self, field: &[u8], value: &[u8]) {
        match field {
            b"event" => value.clone_into(&mut self.name),
            b"data" => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"id" if !value.contains(&0) => self.id = text(value),
            // A comment has an empty name. `retry` is for those who have no backoff of their own.
            _ => {}
        }
    }

    fn event_ended(&mut self) -> Option<Event> {
        self.last_event_id.clone_from(&self.id);
        let name = std::mem::take(&mut self.name);
        let mut data = std::mem::take(&mut self.data);
        data.pop()?;
        Some(Event { name: text(&name), data: text(&data) })
    }
}

/// Bytes as text, decoded as the standard asks: what is not UTF-8 becomes U+FFFD.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Event>, String) {
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        for mut chunk in chunks {
            while let Some(event) = parser.next(&mut chunk).unwrap() {
                events.push(event);
            }
            assert!(chunk.is_empty());
        }
        (events, parser.last_event_id)
    }

    fn message(data: &str) -> Event {
        Event { name: String::new(), data: data.into() }
    }

    #[test]
    fn the_examples_of_the_standard() {
        let (events, id) = parse([&b"data: YHOO\ndata: +2\ndata: 10\n\n"[..]]);
        assert_eq!((events, id.as_str()), (vec![message("YHOO\n+2\n10")], ""));
        let stream = ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n";
        let (events, id) = parse([stream.as_bytes()]);
        assert_eq!(events, [message("first event"), message("second event"), message(" third event")]);
        assert_eq!(id, "");
        let (events, _) = parse([&b"data\n\ndata\ndata\n\ndata:"[..]]);
        assert_eq!(events, [message(""), message("\n")]);
        let (events, _) = parse([&b"data:test\n\ndata: test\n\n"[..]]);
        assert_eq!(events, [message("test"), message("test")]);
    }

    #[test]
    fn names_ids_marks_and_what_is_to_be_ignored() {
        let stream = b"\xef\xbb\xbfevent: reset\r\ndata: {}\r\nretry: 10\r\nDATA: no\r\nid: 7\r\n\r\n: beat\r\n\r\nid: 9\r\n\r\nid: 1\0\r\n\r\n";
        let (events, id) = parse([&stream[..]]);
        assert_eq!(events, [Event { name: "reset".into(), data: "{}".into() }]);
        assert_eq!(id, "9", "an id without data counts, one with NUL does not");
        let (events, _) = parse([&b"event: x\n\ndata: \xef\xbb\xbf\xff\n\n"[..]]);
        assert_eq!(events, [message("\u{feff}\u{fffd}")], "a name without data is forgotten");
    }

    #[test]
    fn an_id_of_an_event_that_was_cut_off_does_not_count() {
        let mut parser = Parser::after("5".into());
        assert_eq!(parser.next(&mut &b"id: 6\ndata: x\n"[..]), Ok(None));
        assert_eq!(parser.last_event_id(), "5");
        assert_eq!(parser.next(&mut &b"\n"[..]), Ok(Some(message("x"))));
        assert_eq!(parser.last_event_id(), "6");
    }

    #[test]
    fn an_event_is_bounded() {
        let mut parser = Parser::default();
        let line = [b"data: ".as_slice(), &vec![b'x'; 1 << 20], b"\n"].concat();
        let taken = (0..).take_while(|_| parser.next(&mut line.as_slice()).is_ok()).count();
        assert_eq!(taken, 7);
    }

    /// The standard's rules over the whole text at once: slow, and plain to see.
    fn reference(stream: &str) -> (Vec<Event>, String) {
        let stream = stream.strip_prefix('\u{feff}').unwrap_or(stream);
        let stream = stream.replace("\r\n", "\n").replace('\r', "\n");
        let mut lines: Vec<&str> = stream.split('\n').collect();
        lines.pop();
        let (mut events, mut data, mut name, mut id, mut last) = (Vec::new(), String::new(), "", "", "");
        for line in lines {
            if line.is_empty() {
                last = id;
                if let Some(data) = data.strip_suffix('\n') {
                    events.push(Event { name: name.into(), data: data.into() });
                }
                (data, name) = (String::new(), "");
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "data" => data = data + value + "\n",
                "event" => name = value,
                "id" if !value.contains('\0') => id = value,
                _ => {}
            }
        }
        (events, last.into())
    }

    fn stream() -> impl Strategy<Value = String> {
        let field = prop_oneof![
            Just("data".to_owned()),
            Just("event".to_owned()),
            Just("id".to_owned()),
            Just(String::new()),
            "[a-z\u{feff}]{0,3}"
        ];
        let end = prop_oneof![Just("\n"), Just("\r"), Just("\r\n")];
        let line = (field, prop_oneof![Just(""), Just(":"), Just(": "), Just("::")], "[^\r\n]{0,6}", end.clone());
        let line = line.prop_map(|(field, colon, value, end)| format!("{field}{colon}{value}{end}"));
        let line = prop_oneof![3 => line, 1 => end.prop_map(str::to_owned)];
        (any::<bool>(), prop::collection::vec(line, 0..20), "[^\r\n]{0,3}").prop_map(|(mark, lines, rest)| {
            let mark = if mark { "\u{feff}" } else { "" };
            format!("{mark}{}{rest}", lines.concat())
        })
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_events_are_the_same(stream in stream(), cuts: Vec<prop::sample::Index>) {
            let bytes = stream.as_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]);
            prop_assert_eq!(parse(chunks), reference(&stream));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            parse([bytes.as_slice()]);
            parse(bytes.chunks(1));
        }
    }
}
