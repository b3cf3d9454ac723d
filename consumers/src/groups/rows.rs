//! Every row of the groups, drawn once.
//!
//! ```text
//! key                                         value
//! 'g' namespace 3 · name                      generation 4 · incarnation 4 · letters made 8 ·
//!                                             configuration's length 4 · configuration as JSON ·
//!                                             progress, see `progress.rs`
//! 'l' namespace 3 · length 1 · name · number 8
//!                                             a dead letter that is not in its namespace yet:
//!                                             offset 8 · deliveries 4 · error
//! ```
//!
//! Numbers in keys are big-endian, so that rows sort by them; in values little-endian.

use rocksdb::{DB, WriteBatch};
use tlog::Namespace;
use wire::{GroupName, NamespaceId};

use super::event::Dead;
use super::kept::Kept;
use super::progress::Progress;
use crate::ledger::LedgerError;
use crate::ledger::codec::{Malformed, Reader};
use crate::ledger::tags::{GROUP, LETTER};

/// The prefix of the rows of a namespace's groups.
pub(super) fn groups_of(namespace: NamespaceId) -> [u8; 4] {
    let [a, b, c] = namespace.to_be_bytes();
    [GROUP, a, b, c]
}

/// The key of a group's row.
fn group(namespace: NamespaceId, name: &str) -> Vec<u8> {
    [&groups_of(namespace), name.as_bytes()].concat()
}

/// The prefix of a group's dead letters.
fn letters_of(namespace: NamespaceId, name: &str) -> Vec<u8> {
    let [a, b, c] = namespace.to_be_bytes();
    [&[LETTER, a, b, c, name.len() as u8], name.as_bytes()].concat()
}

fn letter(namespace: NamespaceId, name: &str, number: u64) -> Vec<u8> {
    [&letters_of(namespace, name)[..], &number.to_be_bytes()].concat()
}

/// The group that a dead letter's row is of.
fn group_of_letter(key: &[u8]) -> Option<(NamespaceId, &str)> {
    let (fixed, rest) = key.split_first_chunk()?;
    let [LETTER, a, b, c, length] = *fixed else { return None };
    let name = std::str::from_utf8(rest.get(..usize::from(length))?).ok()?;
    Some((NamespaceId::from_be_bytes([a, b, c]), name))
}

/// The first key behind a group's dead letters.
fn behind_letters(namespace: NamespaceId, name: &str) -> Vec<u8> {
    [&letters_of(namespace, name)[..], &[0xff; 9]].concat()
}

/// Reads a group, as its rows have it.
pub(super) fn read(db: &DB, namespace: NamespaceId, name: &str) -> Result<Option<Kept>, LedgerError> {
    let key = group(namespace, name);
    let Some(row) = db.get_pinned(&key)? else { return Ok(None) };
    let mut kept = decode(&row).map_err(|reason| LedgerError::damaged(&key, &reason))?;
    let prefix = letters_of(namespace, name);
    let mut rows = db.raw_iterator();
    rows.seek(&prefix);
    while let Some((key, value)) = rows.item().filter(|(key, _)| key.starts_with(&prefix)) {
        let letter = key[prefix.len()..].try_into().ok().map(u64::from_be_bytes).zip(decode_letter(value));
        let (number, dead) = letter.ok_or_else(|| LedgerError::damaged(key, "it is not a dead letter"))?;
        kept.letters.insert(number, dead);
        rows.next();
    }
    rows.status()?;
    Ok(Some(kept))
}

/// The name in the key of a group's row.
pub(super) fn name_in(key: &[u8]) -> Result<GroupName, LedgerError> {
    let name = key.get(4..).and_then(|name| GroupName::new(std::str::from_utf8(name).ok()?).ok());
    name.ok_or_else(|| LedgerError::damaged(key, "it names no group"))
}

/// At most `limit` groups of a namespace whose names sort behind `after`, by name.
pub(super) fn list(
    db: &DB,
    namespace: &Namespace,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(GroupName, Kept)>, LedgerError> {
    let prefix = groups_of(namespace.id());
    let mut groups = Vec::new();
    let mut rows = db.raw_iterator();
    rows.seek(group(namespace.id(), after.unwrap_or_default()));
    while let Some((key, value)) = rows.item().filter(|(key, _)| groups.len() < limit && key.starts_with(&prefix)) {
        let name = name_in(key)?;
        let kept = decode(value).map_err(|reason| LedgerError::damaged(key, &reason))?;
        if after.is_none_or(|after| &*name > after) && kept.generation == namespace.generation() {
            groups.push((name, kept));
        }
        rows.next();
    }
    rows.status()?;
    Ok(groups)
}

/// The groups that have dead letters which are not in their namespace yet.
pub(super) fn with_letters(db: &DB) -> Result<Vec<(NamespaceId, GroupName)>, LedgerError> {
    let mut groups = Vec::new();
    let mut rows = db.raw_iterator();
    rows.seek([LETTER]);
    while let Some(key) = rows.key().filter(|key| key[0] == LETTER) {
        let found = group_of_letter(key).and_then(|(namespace, name)| Some((namespace, GroupName::new(name).ok()?)));
        let (namespace, name) = found.ok_or_else(|| LedgerError::damaged(key, "it is of no group"))?;
        rows.seek(behind_letters(namespace, &name));
        groups.push((namespace, name));
    }
    rows.status()?;
    Ok(groups)
}

/// Adds to a batch what makes the rows of a group, `before` as they are, such as it is `now`.
pub(super) fn write(
    batch: &mut WriteBatch,
    namespace: NamespaceId,
    name: &str,
    before: Option<&Kept>,
    now: Option<&mut Kept>,
) -> Result<(), LedgerError> {
    let key = group(namespace, name);
    let made = before.into_iter().flat_map(|kept| kept.letters.keys());
    for number in made.filter(|number| now.as_ref().is_none_or(|kept| !kept.letters.contains_key(number))) {
        batch.delete(letter(namespace, name, *number));
    }
    let Some(kept) = now else {
        if before.is_some() {
            batch.delete(key);
        }
        return Ok(());
    };
    // A number comes again where the group ended in between, and was made anew.
    let is_new = |number: &u64, dead: &Dead| before.is_none_or(|before| before.letters.get(number) != Some(dead));
    for (number, dead) in kept.letters.iter().filter(|(number, dead)| is_new(number, dead)) {
        batch.put(letter(namespace, name, *number), encode_letter(dead));
    }
    batch.put(&key, encode(kept).map_err(|reason| LedgerError::damaged(&key, &reason))?);
    Ok(())
}

fn encode(kept: &mut Kept) -> Result<Vec<u8>, String> {
    let config = serde_json::to_vec(&kept.config).map_err(|error| error.to_string())?;
    let mut row = kept.generation.to_le_bytes().to_vec();
    row.extend_from_slice(&kept.incarnation.to_le_bytes());
    row.extend_from_slice(&kept.letters_made.to_le_bytes());
    row.extend_from_slice(&(config.len() as u32).to_le_bytes());
    row.extend_from_slice(&config);
    row.extend_from_slice(&kept.progress.encode().map_err(|error| error.to_string())?);
    Ok(row)
}

/// The group of a row, but for its dead letters.
fn decode(row: &[u8]) -> Result<Kept, String> {
    let malformed = |Malformed(what)| what.to_owned();
    let mut reader = Reader(row);
    let generation = u32::from_le_bytes(reader.array().map_err(malformed)?);
    let incarnation = u32::from_le_bytes(reader.array().map_err(malformed)?);
    let letters_made = u64::from_le_bytes(reader.array().map_err(malformed)?);
    let length = u32::from_le_bytes(reader.array().map_err(malformed)?);
    let config = reader.take(length as usize).map_err(malformed)?;
    let config = serde_json::from_slice(config).map_err(|error| error.to_string())?;
    let progress = Progress::decode(reader.rest()).map_err(|error| error.to_string())?;
    Ok(Kept { generation, incarnation, config, progress, letters_made, letters: Default::default() })
}

fn encode_letter(dead: &Dead) -> Vec<u8> {
    let mut row = dead.offset.to_le_bytes().to_vec();
    row.extend_from_slice(&dead.deliveries.to_le_bytes());
    row.extend_from_slice(dead.error.as_bytes());
    row
}

fn decode_letter(row: &[u8]) -> Option<Dead> {
    let (offset, rest) = row.split_first_chunk()?;
    let (deliveries, error) = rest.split_first_chunk()?;
    Some(Dead {
        offset: u64::from_le_bytes(*offset),
        deliveries: u32::from_le_bytes(*deliveries),
        error: std::str::from_utf8(error).ok()?.to_owned(),
    })
}

/// The row of a group once more.
#[cfg(feature = "fuzzing")]
pub(crate) fn row_again(key: &[u8], row: &[u8]) -> Option<Vec<u8>> {
    name_in(key).ok()?;
    encode(&mut decode(row).ok()?).ok()
}

/// The row of a dead letter once more.
#[cfg(feature = "fuzzing")]
pub(crate) fn letter_again(key: &[u8], row: &[u8]) -> Option<Vec<u8>> {
    group_of_letter(key)?;
    decode_letter(row).map(|dead| encode_letter(&dead))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::GroupConfig;

    #[test]
    fn golden_keys_and_rows() {
        let namespace = NamespaceId::new(0x01_0203).unwrap();
        assert_eq!(group(namespace, "work"), b"g\x01\x02\x03work");
        let key = letter(namespace, "work", 0x0405);
        assert_eq!(key, b"l\x01\x02\x03\x04work\0\0\0\0\0\0\x04\x05");
        assert_eq!(group_of_letter(&key), Some((namespace, "work")));
        let dead = Dead::new(0x0102, 3, "bad");
        let row = encode_letter(&dead);
        assert_eq!(row, b"\x02\x01\0\0\0\0\0\0\x03\0\0\0bad");
        assert_eq!(decode_letter(&row), Some(dead));
        let config = GroupConfig::default();
        let json = serde_json::to_vec(&config).unwrap();
        let progress = Progress::new(9);
        let mut kept =
            Kept { generation: 2, incarnation: 3, config, progress, letters_made: 4, letters: Default::default() };
        let golden = [
            b"\x02\0\0\0\x03\0\0\0\x04\0\0\0\0\0\0\0".to_vec(),
            (json.len() as u32).to_le_bytes().to_vec(),
            json,
            b"\x09\0\0\0\0\0\0\0\0".to_vec(),
        ];
        let row = encode(&mut kept).unwrap();
        assert_eq!(row, golden.concat());
        assert_eq!(decode(&row), Ok(kept));
        assert!(decode(&row[..19]).is_err());
    }
}
