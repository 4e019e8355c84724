//! Keys of several parts whose bytes compare as the parts do: FoundationDB's tuple layer.
//!
//! ```text
//! null     00                          in a nested tuple 00 FF
//! bytes    01, each 00 in them 00 FF, 00
//! text     02, UTF-8 as above, 00
//! array    05, its parts, 00
//! integer  14 zero; 14+n, n bytes big-endian, n of 1 to 8; 14-n, n bytes of the one's complement if negative
//!          1D n, n bytes, from 2^64 - 1 up to 255 bytes; 0B n^FF, n bytes of the one's complement if negative
//! float    20 of 32, 21 of 64 bits: IEEE big-endian, the sign flipped, all bits if negative
//! bool     26 false, 27 true
//! ```
//!
//! Spec: design/tuple.md of apple/foundationdb.

use crate::{Error, Result, Value};

const MAX_NESTING: usize = 64;
const LONG_BYTES: usize = 255;
/// CBOR's tags of integers past 64 bits: a magnitude, and one's complement of one.
pub(crate) const POSITIVE: u64 = 2;
pub(crate) const NEGATIVE: u64 = 3;

/// The bytes of a tuple.
pub fn pack(parts: &[Value]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    parts.iter().try_for_each(|part| put(&mut out, part, 0))?;
    Ok(out)
}

/// The end of all keys that begin with these packed parts. Not the next bytes: a text that begins with another one and a
/// zero has its bytes, and then FF.
pub(crate) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    [prefix, &[0xFF]].concat()
}

fn put(out: &mut Vec<u8>, part: &Value, nesting: usize) -> Result<()> {
    if let Some((is_negative, magnitude)) = integer(part) {
        return put_integer(out, is_negative, &magnitude);
    }
    match part {
        Value::Null if nesting > 0 => out.extend([0x00, 0xFF]),
        Value::Null => out.push(0x00),
        Value::Bytes(bytes) => put_escaped(out, 0x01, bytes),
        Value::Text(text) => put_escaped(out, 0x02, text.as_bytes()),
        Value::Bool(value) => out.push(if *value { 0x27 } else { 0x26 }),
        Value::Float(value) => {
            out.push(0x21);
            let bits = value.to_bits();
            out.extend((if value.is_sign_negative() { !bits } else { bits ^ 1 << 63 }).to_be_bytes());
        }
        Value::Array(parts) if nesting < MAX_NESTING => {
            out.push(0x05);
            parts.iter().try_for_each(|one| put(out, one, nesting + 1))?;
            out.push(0x00);
        }
        _ => return Err(Error::Value(format!("{} has no place in a key", brief(part)))),
    }
    Ok(())
}

fn put_escaped(out: &mut Vec<u8>, code: u8, bytes: &[u8]) {
    out.push(code);
    for &one in bytes {
        out.push(one);
        if one == 0 {
            out.push(0xFF);
        }
    }
    out.push(0);
}

fn put_integer(out: &mut Vec<u8>, is_negative: bool, magnitude: &[u8]) -> Result<()> {
    let size = magnitude.len();
    // Eight bytes would hold 2^64 - 1, and FoundationDB's own Python package writes it in the long form all the same.
    let is_short = size < 8 || size == 8 && magnitude != [0xFF; 8];
    match (is_short, is_negative) {
        (true, false) => out.push(0x14 + size as u8),
        (true, true) => out.push(0x14 - size as u8),
        _ if size > LONG_BYTES => {
            return Err(Error::Value(format!("an integer in a key has at most {LONG_BYTES} bytes, found {size}")));
        }
        (false, false) => out.extend([0x1D, size as u8]),
        (false, true) => out.extend([0x0B, size as u8 ^ 0xFF]),
    }
    out.extend(magnitude.iter().map(|one| if is_negative { !one } else { *one }));
    Ok(())
}

/// The sign and the magnitude of an integer, big-endian in as few bytes as hold it; `None`: it is none.
pub(crate) fn integer(value: &Value) -> Option<(bool, Vec<u8>)> {
    match value {
        Value::Integer(found) => {
            let found = i128::from(*found);
            Some((found < 0, trimmed(&found.unsigned_abs().to_be_bytes()).to_vec()))
        }
        Value::Tag(POSITIVE, inner) => inner.as_bytes().map(|bytes| (false, trimmed(bytes).to_vec())),
        Value::Tag(NEGATIVE, inner) => inner.as_bytes().map(|bytes| {
            let mut magnitude = bytes.clone();
            add_one(&mut magnitude);
            (true, trimmed(&magnitude).to_vec())
        }),
        _ => None,
    }
}

/// The integer of a sign and a magnitude, in the one form that CBOR has for it.
pub(crate) fn integer_value(is_negative: bool, magnitude: &[u8]) -> Value {
    let mut magnitude = trimmed(magnitude).to_vec();
    if is_negative {
        subtract_one(&mut magnitude);
    }
    let rest = trimmed(&magnitude);
    if rest.len() <= 8 {
        let found = rest.iter().fold(0i128, |sum, one| sum << 8 | i128::from(*one));
        let found = if is_negative { -1 - found } else { found };
        return Value::Integer(found.try_into().expect("64 bits and a sign"));
    }
    Value::Tag(if is_negative { NEGATIVE } else { POSITIVE }, Box::new(Value::Bytes(rest.to_vec())))
}

fn trimmed(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.iter().take_while(|one| **one == 0).count()..]
}

fn add_one(bytes: &mut Vec<u8>) {
    for one in bytes.iter_mut().rev() {
        *one = one.wrapping_add(1);
        if *one != 0 {
            return;
        }
    }
    bytes.insert(0, 1);
}

fn subtract_one(bytes: &mut [u8]) {
    for one in bytes.iter_mut().rev() {
        *one = one.wrapping_sub(1);
        if *one != 0xFF {
            return;
        }
    }
}

/// The parts of a tuple.
pub fn unpack(data: &[u8]) -> Result<Vec<Value>> {
    let (mut parts, mut reader) = (Vec::new(), Reader { data, at: 0 });
    while reader.at < data.len() {
        parts.push(reader.part(0)?);
    }
    Ok(parts)
}

/// Where the part number `count` begins.
pub(crate) fn skip(data: &[u8], count: usize) -> Result<usize> {
    let mut reader = Reader { data, at: 0 };
    (0..count).try_for_each(|_| reader.part(0).map(drop))?;
    Ok(reader.at)
}

struct Reader<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn fault<T>(&self, what: &str) -> Result<T> {
        Err(Error::Malformed(format!("no packed tuple: {what} at byte {} of {}", self.at, self.data.len())))
    }

    fn take(&mut self, size: usize) -> Result<&'a [u8]> {
        let Some(found) = self.data[self.at..].get(..size) else { return self.fault("cut off") };
        self.at += size;
        Ok(found)
    }

    fn part(&mut self, nesting: usize) -> Result<Value> {
        let code = self.take(1)?[0];
        Ok(match code {
            0x00 => Value::Null,
            0x01 => Value::Bytes(self.escaped()?),
            0x02 => match String::from_utf8(self.escaped()?) {
                Ok(text) => Value::Text(text),
                Err(_) => return self.fault("text that is no UTF-8"),
            },
            0x05 if nesting == MAX_NESTING => return self.fault("too many tuples nested"),
            0x05 => self.nested(nesting + 1)?,
            0x0B => {
                let size = usize::from(self.take(1)?[0] ^ 0xFF);
                self.integer(size, true)?
            }
            0x0C..=0x13 => self.integer(usize::from(0x14 - code), true)?,
            0x14..=0x1C => self.integer(usize::from(code - 0x14), false)?,
            0x1D => {
                let size = usize::from(self.take(1)?[0]);
                self.integer(size, false)?
            }
            0x20 => {
                let bits = u32::from_be_bytes(self.take(4)?.try_into().expect("four bytes"));
                Value::Float(f32::from_bits(if bits >> 31 == 1 { bits ^ 1 << 31 } else { !bits }).into())
            }
            0x21 => {
                let bits = u64::from_be_bytes(self.take(8)?.try_into().expect("eight bytes"));
                Value::Float(f64::from_bits(if bits >> 63 == 1 { bits ^ 1 << 63 } else { !bits }))
            }
            0x26 | 0x27 => Value::Bool(code == 0x27),
            _ => return self.fault(&format!("no part begins with {code:#04x}")),
        })
    }

    fn integer(&mut self, size: usize, is_negative: bool) -> Result<Value> {
        let bytes = self.take(size)?;
        let magnitude: Vec<u8> = bytes.iter().map(|one| if is_negative { !one } else { *one }).collect();
        if magnitude.first() == Some(&0) {
            return self.fault("an integer in more bytes than it needs");
        }
        Ok(integer_value(is_negative, &magnitude))
    }

    fn escaped(&mut self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        loop {
            let one = self.take(1)?[0];
            if one == 0 {
                if self.data.get(self.at) != Some(&0xFF) {
                    return Ok(out);
                }
                self.at += 1;
            }
            out.push(one);
        }
    }

    fn nested(&mut self, nesting: usize) -> Result<Value> {
        let mut parts = Vec::new();
        loop {
            if self.data.get(self.at) == Some(&0) && self.data.get(self.at + 1) != Some(&0xFF) {
                self.at += 1;
                return Ok(Value::Array(parts));
            }
            let part = self.part(nesting)?;
            if part.is_null() {
                self.at += 1; // the FF behind it
            }
            parts.push(part);
        }
    }
}

/// A value for an error, not all of it.
pub(crate) fn brief(value: &Value) -> String {
    let text = format!("{value:?}");
    if text.chars().count() <= 60 { text } else { text.chars().take(57).chain("...".chars()).collect() }
}
