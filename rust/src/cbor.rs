//! CBOR in the one form in which Python's `cbor2.dumps` writes it: shortest integers, floats of 64 bits.
//!
//! Reading is left to ciborium, which takes every form.

use crate::{Error, Result, Value};

const MAX_NESTING: usize = 128;

pub(crate) fn read(data: &[u8]) -> Result<Value> {
    let mut rest = data;
    let found = ciborium::de::from_reader_with_recursion_limit(&mut rest, MAX_NESTING)
        .map_err(|error| Error::Malformed(format!("no CBOR: {error}")))?;
    if !rest.is_empty() {
        return Err(Error::Malformed(format!("no CBOR: {} bytes after the item", rest.len())));
    }
    Ok(found)
}

pub(crate) fn write(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, value);
    out
}

fn head(out: &mut Vec<u8>, major: u8, number: u64) {
    let major = major << 5;
    match number {
        0..24 => out.push(major | number as u8),
        24..0x100 => out.extend([major | 24, number as u8]),
        0x100..0x1_0000 => {
            out.push(major | 25);
            out.extend((number as u16).to_be_bytes());
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(major | 26);
            out.extend((number as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend(number.to_be_bytes());
        }
    }
}

fn put(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Integer(found) => {
            let found = i128::from(*found);
            let (major, number) = if found < 0 { (1, -1 - found) } else { (0, found) };
            head(out, major, number as u64);
        }
        Value::Bytes(bytes) => {
            head(out, 2, bytes.len() as u64);
            out.extend(bytes);
        }
        Value::Text(text) => {
            head(out, 3, text.len() as u64);
            out.extend(text.as_bytes());
        }
        Value::Array(items) => {
            head(out, 4, items.len() as u64);
            items.iter().for_each(|one| put(out, one));
        }
        Value::Map(entries) => {
            head(out, 5, entries.len() as u64);
            for (key, one) in entries {
                put(out, key);
                put(out, one);
            }
        }
        Value::Tag(tag, inner) => {
            head(out, 6, *tag);
            put(out, inner);
        }
        Value::Bool(found) => out.push(if *found { 0xF5 } else { 0xF4 }),
        Value::Float(found) if found.is_nan() => out.extend([0xF9, 0x7E, 0x00]),
        Value::Float(found) if found.is_infinite() => out.extend([0xF9, if *found > 0.0 { 0x7C } else { 0xFC }, 0x00]),
        Value::Float(found) => {
            out.push(0xFB);
            out.extend(found.to_be_bytes());
        }
        _ => out.push(0xF6),
    }
}
