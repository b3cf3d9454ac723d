//! Percent-encoded names, keys and parameters; resume tokens, and those of leases.
//!
//! ```text
//! 0  mode   0: a path · 1: a name to be encoded and read back · 2: a query · 3: a token
//! 1  the text
//! ```

use axum::http::{HeaderValue, Uri};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use broker::fuzzing;
use consumers::groups::Token;
use wire::{Code, NamespaceId, NamespaceName};

/// Runs the target.
pub fn run(data: &[u8]) {
    let [mode, text @ ..] = data else { return };
    match mode % 4 {
        0 => path(text),
        1 => round_trip(text, *mode),
        2 => query(text),
        _ => token(text),
    }
}

fn path(text: &[u8]) {
    let Ok(uri) = Uri::try_from([b"/v1/namespaces/", text].concat()) else { return };
    let segments: Vec<&str> = uri.path().split('/').collect();
    let spelled = |at: usize| decode(segments.get(at).copied().unwrap_or_default());
    match fuzzing::namespace(&uri) {
        Ok(name) => {
            assert_eq!(spelled(3).as_deref(), Some(name.as_bytes()));
            assert!(!name.is_empty() && name.len() <= 255 && !name.chars().any(char::is_control));
        }
        Err(code) => {
            assert_eq!(code, Some(Code::InvalidName));
            assert!(spelled(3).is_none_or(|bytes| NamespaceName::from_bytes(&bytes).is_err()));
        }
    }
    match fuzzing::key(&uri) {
        Ok(key) => {
            assert_eq!(spelled(5).as_deref(), Some(key.as_bytes()));
            assert!(!key.is_empty() && key.len() <= 1024 && !key.chars().any(char::is_control));
        }
        Err(code) => {
            assert_eq!(code, Some(Code::InvalidKey));
            let key = spelled(5).and_then(|bytes| String::from_utf8(bytes).ok());
            assert!(key.is_none_or(|key| wire::name::check_key(&key).is_err()));
        }
    }
}

/// What is encoded, with as many escapes as `style` says, is read back.
fn round_trip(text: &[u8], style: u8) {
    let encoded = encode(text, style);
    let uri = Uri::try_from(format!("/v1/namespaces/{encoded}/keys/{encoded}?key={encoded}&from=1")).ok();
    // A URI has a longest length; what is below it and encoded is always one.
    let Some(uri) = uri else { return assert!(encoded.len() > 16_000) };
    match NamespaceName::from_bytes(text) {
        Ok(name) => assert_eq!(fuzzing::namespace(&uri), Ok(name)),
        Err(_) => assert_eq!(fuzzing::namespace(&uri), Err(Some(Code::InvalidName))),
    }
    let text = std::str::from_utf8(text);
    match text {
        Ok(key) if wire::name::check_key(key).is_ok() => assert_eq!(fuzzing::key(&uri).as_deref(), Ok(key)),
        _ => assert_eq!(fuzzing::key(&uri), Err(Some(Code::InvalidKey))),
    }
    match text {
        Ok(text) => assert_eq!(fuzzing::keys(&uri), Ok(vec![text.to_owned()])),
        Err(_) => assert_eq!(fuzzing::keys(&uri), Err(Some(Code::InvalidParameter))),
    }
}

fn encode(text: &[u8], style: u8) -> String {
    let plain = |byte: u8| style & 4 != 0 && (byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
    let spell = |byte: &u8| match (plain(*byte), style & 8 != 0) {
        (true, _) => char::from(*byte).to_string(),
        (false, true) => format!("%{byte:02X}"),
        (false, false) => format!("%{byte:02x}"),
    };
    text.iter().map(spell).collect()
}

fn query(text: &[u8]) {
    let Ok(uri) = Uri::try_from([b"/x?", text].concat()) else { return };
    let found = fuzzing::keys(&uri);
    // The same query by hand: pairs, each name and value decoded, `+` a space.
    let mut keys = Some(Vec::new());
    let mut begins = 0;
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let text = |text: &str| decode(&text.replace('+', " ")).and_then(|bytes| String::from_utf8(bytes).ok());
        match (text(name).as_deref(), text(value)) {
            (Some("key"), Some(value)) => keys.iter_mut().for_each(|keys| keys.push(value.clone())),
            (Some("from"), Some(_)) => begins += 1,
            _ => keys = None,
        }
    }
    match keys.filter(|_| begins < 2) {
        Some(keys) => assert_eq!(found, Ok(keys)),
        None => assert_eq!(found, Err(Some(Code::InvalidParameter))),
    }
}

/// A token is spelled in one way only, and comes back as it was.
fn token(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(again) = fuzzing::token(text)
    {
        assert_eq!(again, text);
    }
    let sealed = seal("", bytes);
    if let Some(again) = fuzzing::token(&sealed) {
        assert_eq!(again, sealed);
    }
    let anns = seal("ann", bytes);
    if let Some(again) = fuzzing::subscribers_token("ann", &anns) {
        assert_eq!(again, anns);
    }
    for other in ["", "an", "ben"] {
        assert_eq!(fuzzing::subscribers_token(other, &anns), None, "a token is its subscriber's");
    }
    last_event_id(bytes);
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(token) = text.parse::<Token>()
    {
        assert_eq!(token.to_string(), text);
    }
    if let Some((fields, _)) = bytes.split_first_chunk::<15>() {
        let id = NamespaceId::from_be_bytes(*fields.first_chunk().unwrap());
        let generation = u32::from_le_bytes(*fields[3..].first_chunk().unwrap());
        let offset = u64::from_le_bytes(*fields[7..].first_chunk().unwrap());
        let token = fuzzing::token_of(id, generation, offset);
        assert_eq!(fuzzing::token(&token), Some(token));
    }
}

/// A token of these places, whose checksum is right.
fn seal(subscriber: &str, places: &[u8]) -> String {
    let crc = crc32fast::hash(&[subscriber.as_bytes(), places].concat()).to_be_bytes();
    URL_SAFE_NO_PAD.encode([&[1], &crc[..], places].concat())
}

/// A header is an id where it is visible ASCII, and none where it is empty.
fn last_event_id(bytes: &[u8]) {
    let Ok(header) = HeaderValue::from_bytes(bytes) else { return };
    let is_text = bytes.iter().all(|byte| (b' '..=b'~').contains(byte) || *byte == b'\t');
    match fuzzing::last_event_id(header) {
        Ok(id) => assert_eq!(id.unwrap_or_default().as_bytes(), bytes),
        Err(code) => assert!(!is_text && code == Some(Code::InvalidParameter)),
    }
}

/// Percent-decoding by hand; nothing where a `%` has no two hex digits.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            (high * 16 + low) as u8
        } else {
            byte
        });
    }
    Some(decoded)
}
