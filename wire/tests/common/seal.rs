//! Forging: bytes whose length and CRC are right, whatever the rest is, so that the checks behind
//! the CRC are reached.

/// Writes a frame's or draft's magic, length and CRC over whatever stands there.
pub(crate) fn seal(bytes: &mut [u8]) {
    bytes[..4].copy_from_slice(b"TLGF");
    let length = (bytes.len() as u32).to_le_bytes();
    bytes[8..12].copy_from_slice(&length);
    seal_crc(bytes);
}

/// Writes the CRC that the bytes have.
pub(crate) fn seal_crc(bytes: &mut [u8]) {
    let crc = crc32fast::hash(&bytes[8..]).to_le_bytes();
    bytes[4..8].copy_from_slice(&crc);
}
