//! What a subscription gives, and the same as lines of NDJSON.

use wire::json::{RecordJson, Reset, ResetLine};

use crate::error::Error;
use crate::record::Record;

/// What a subscription gives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The next record.
    Record(Record),
    /// Records are missing where this stands: they are gone, and the next event is what follows them.
    Reset(Reset),
}

impl Event {
    /// The event as JSON on one line, without a line break at its end: as a page in NDJSON has it.
    ///
    /// # Errors
    /// Where a value of kind JSON is not JSON, which no broker lets in.
    pub fn json_line(&self) -> serde_json::Result<String> {
        match self {
            Event::Record(record) => record.json_line(),
            Event::Reset(reset) => serde_json::to_string(&ResetLine { reset: reset.clone() }),
        }
    }

    /// The event that a line of NDJSON is, of a page or of [`Event::json_line`].
    ///
    /// # Errors
    /// [`Error::Reply`] where it is neither a record nor a reset.
    pub fn of_json_line(line: &str) -> Result<Event, Error> {
        // Its one field is one that no record has.
        if let Ok(ResetLine { reset }) = serde_json::from_str(line) {
            return Ok(Event::Reset(reset));
        }
        let record = serde_json::from_str::<RecordJson>(line);
        Record::of_json(record.map_err(|error| Error::Reply(format!("a line: {error}")))?).map(Event::Record)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use wire::json::Lost;

    use super::*;

    const RECORD: &str = r#"{"offset":1,"id":"3f0000010000000a","value":{"reset":1},"time":"2026-01-01T00:00:00Z"}"#;

    #[test]
    fn lines_are_told_apart() {
        let event = Event::of_json_line(RECORD).unwrap();
        assert!(matches!(&event, Event::Record(record) if record.value == r#"{"reset":1}"#), "{event:?}");
        assert_eq!(event.json_line().unwrap(), RECORD);
        let reset = r#"{"reset":{"from":40,"to":52,"reason":"lost"}}"#;
        let event = Event::of_json_line(reset).unwrap();
        assert_eq!(event, Event::Reset(Lost { from: 40, to: 52 }.reset()));
        assert_eq!(event.json_line().unwrap(), reset);
        for line in ["", "{}", "[]", r#"{"reset":{"from":1}}"#, "{\"reset\":null}"] {
            assert!(matches!(Event::of_json_line(line), Err(Error::Reply(_))), "{line}");
        }
    }

    proptest! {
        #[test]
        fn resets_come_back_from_their_lines(from: u64, to: u64, reason: String, namespace: Option<String>) {
            let event = Event::Reset(Reset { namespace, lost: Lost { from, to }, reason });
            let line = event.json_line().unwrap();
            prop_assert!(!line.contains(['\n', '\r']));
            prop_assert_eq!(Event::of_json_line(&line).unwrap(), event);
        }

        #[test]
        fn no_line_makes_it_panic(line: String) {
            drop(Event::of_json_line(&line));
        }
    }
}
