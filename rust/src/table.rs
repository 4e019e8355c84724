//! Rows by a key, with indexes; each a tree of its own, all in step.

use std::iter;
use std::ops::Bound;

use ic_stable_structures::memory_manager::VirtualMemory;
use ic_stable_structures::{Memory, StableBTreeMap};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::catalogue::{Column, Model, State, Tree};
use crate::store::{Loan, Store};
use crate::tuple::{brief, integer, pack, prefix_end, skip, unpack};
use crate::{Error, Result, Value, cbor};

const MAX_KEY_BYTES: usize = 65_535;
const MAX_NESTING: usize = 64;

type Map<M> = StableBTreeMap<Vec<u8>, Vec<u8>, VirtualMemory<M>>;
type Row = Vec<Value>;

struct Part<M: Memory> {
    source: Tree,
    map: Map<M>,
}

/// A table, with its trees open. What it writes is there at once; a message that traps undoes it.
pub struct Table<M: Memory> {
    model: Model,
    first: Part<M>,
    columns: Vec<Part<M>>,
    indexes: Vec<Part<M>>,
    _loan: Loan,
}

impl<M: Memory> Table<M> {
    pub(crate) fn open(store: &Store<M>, model: &Model) -> Result<Self> {
        let loan = store.lend(model)?;
        let part = |tree: &Tree| Part { source: tree.clone(), map: Map::init(store.memory(tree.memory_id)) };
        let rest = || model.trees[1..].iter().filter(|one| one.state != State::Unused);
        Ok(Table {
            model: model.clone(),
            first: part(&model.trees[0]),
            columns: rest().filter(|one| !one.value.is_empty()).map(part).collect(),
            indexes: rest().filter(|one| one.value.is_empty()).map(part).collect(),
            _loan: loan,
        })
    }

    /// What the catalogue says of it.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// How many rows there are.
    pub fn len(&self) -> u64 {
        self.first.map.len()
    }

    pub fn is_empty(&self) -> bool {
        self.first.map.is_empty()
    }

    /// The row of a key.
    pub fn get<T: DeserializeOwned>(&self, key: &[Value]) -> Result<Option<T>> {
        self.plain(&self.key(key)?)?.map(|row| self.typed(row)).transpose()
    }

    pub fn contains(&self, key: &[Value]) -> Result<bool> {
        Ok(self.first.map.contains_key(&self.key(key)?))
    }

    /// Set the row of its key, whether there was one or not.
    pub fn put<T: Serialize>(&mut self, row: &T) -> Result<()> {
        let row = self.row(row)?;
        self.write(row, false)
    }

    /// Set the row of a key that there is none of.
    pub fn insert<T: Serialize>(&mut self, row: &T) -> Result<()> {
        let row = self.row(row)?;
        self.write(row, true)
    }

    /// Remove the row of a key; whether there was one.
    pub fn remove(&mut self, key: &[Value]) -> Result<bool> {
        let key = self.key(key)?;
        let Some(row) = self.plain(&key)? else { return Ok(false) };
        let entries: Vec<Vec<u8>> =
            self.indexes.iter().map(|one| pack(&picked(&row, &one.source.key))).collect::<Result<_>>()?;
        self.first.map.remove(&key);
        for part in &mut self.columns {
            part.map.remove(&key);
        }
        for (part, entry) in self.indexes.iter_mut().zip(&entries) {
            part.map.remove(entry);
        }
        Ok(true)
    }

    /// The rows with `low <= key < high`; of a key of several columns the first ones will do.
    pub fn range<T: DeserializeOwned>(
        &self,
        low: Option<&[Value]>,
        high: Option<&[Value]>,
    ) -> Result<impl Iterator<Item = Result<T>>> {
        let columns = &self.first.source.key;
        let bounds = (bound(self.packed(columns, low)?, true), bound(self.packed(columns, high)?, false));
        Ok(self.first.map.range(bounds).map(|entry| self.typed(self.assembled(entry.key(), &entry.value())?)))
    }

    /// All rows, in the order of their keys.
    pub fn iter<T: DeserializeOwned>(&self) -> impl Iterator<Item = Result<T>> {
        self.first.map.iter().map(|entry| self.typed(self.assembled(entry.key(), &entry.value())?))
    }

    /// The rows that have these values of an index, or of its first columns, in its order.
    pub fn by<T: DeserializeOwned>(
        &self,
        columns: &[&str],
        values: &[Value],
    ) -> Result<impl Iterator<Item = Result<T>>> {
        let index = self.index(columns)?;
        let low = self.packed(&index.source.key[..index.source.width], Some(values))?;
        let high = low.as_deref().filter(|low| !low.is_empty()).map(prefix_end);
        Ok(index.map.range((bound(low, true), bound(high, false))).map(move |entry| {
            let found = self.plain(&self.row_key(&index.source, entry.key())?)?;
            let lost = || Error::Malformed(format!("index {} has a row that the table has not", index.source.name));
            self.typed(found.ok_or_else(lost)?)
        }))
    }

    /// One column of the entries of a tree whose first column has a value, out of their keys alone.
    pub(crate) fn keys_with(
        &self,
        index: Option<&[&str]>,
        value: &Value,
        column: &str,
    ) -> Result<impl Iterator<Item = Result<Value>>> {
        let part = index.map_or(Ok(&self.first), |columns| self.index(columns))?;
        let low = self.packed(&part.source.key[..1], Some(std::slice::from_ref(value)))?.unwrap_or_default();
        let place = part.source.key.iter().position(|at| self.model.columns[*at].name == column);
        let place = place.ok_or_else(|| Error::Value(format!("tree {} has no {column}", part.source.name)))?;
        let high = prefix_end(&low);
        Ok(part.map.keys_range(low..high).map(move |key| Ok(self.unpacked(&part.source, &key)?.swap_remove(place))))
    }

    fn index(&self, columns: &[&str]) -> Result<&Part<M>> {
        let names = |one: &Part<M>| {
            one.source.key[..one.source.width]
                .iter()
                .map(|at| self.model.columns[*at].name.as_str())
                .collect::<Vec<_>>()
        };
        self.indexes.iter().find(|one| names(one) == columns).ok_or_else(|| {
            let all: Vec<String> = self.indexes.iter().map(|one| names(one).join(", ")).collect();
            Error::Value(format!(
                "{} has no index of {}, there are: {}",
                self.model.name,
                columns.join(", "),
                all.join("; ")
            ))
        })
    }

    // -- keys

    fn key(&self, values: &[Value]) -> Result<Vec<u8>> {
        let columns = &self.first.source.key;
        if values.len() != columns.len() {
            return Err(Error::Value(format!("{}: a key has {} columns", self.model.name, columns.len())));
        }
        Ok(self.packed(columns, Some(values))?.unwrap_or_default())
    }

    fn packed(&self, columns: &[usize], values: Option<&[Value]>) -> Result<Option<Vec<u8>>> {
        let Some(values) = values else { return Ok(None) };
        if values.len() > columns.len() {
            return Err(Error::Value(format!("{}: at most {} values", self.model.name, columns.len())));
        }
        let parts = iter::zip(columns, values).map(|(at, value)| accepted(&self.model.columns[*at], value.clone()));
        Ok(Some(pack(&parts.collect::<Result<Vec<_>>>()?)?))
    }

    /// The key of the row that an entry of an index is of.
    fn row_key(&self, index: &Tree, entry: &[u8]) -> Result<Vec<u8>> {
        let own = &self.first.source.key;
        if index.key[index.width..] == *own {
            return Ok(entry[skip(entry, index.width)?..].to_vec()); // it stands at the end, as it is
        }
        let parts = self.unpacked(index, entry)?;
        let place = |column: &usize| index.key.iter().position(|one| one == column);
        let key = own.iter().map(|one| place(one).map(|at| parts[at].clone())).collect::<Option<Vec<_>>>();
        pack(&key.ok_or_else(|| Error::Malformed(format!("index {} has not the whole key", index.name)))?)
    }

    fn unpacked(&self, tree: &Tree, key: &[u8]) -> Result<Vec<Value>> {
        let parts = unpack(key)?;
        if parts.len() != tree.key.len() {
            let (found, expected) = (parts.len(), tree.key.len());
            return Err(Error::Malformed(format!("tree {}: a key of {found} parts, expected {expected}", tree.name)));
        }
        Ok(parts)
    }

    // -- rows as the columns of the model, in its order

    fn plain(&self, key: &Vec<u8>) -> Result<Option<Row>> {
        self.first.map.get(key).map(|value| self.assembled(key, &value)).transpose()
    }

    fn assembled(&self, key: &Vec<u8>, value: &[u8]) -> Result<Row> {
        let mut row: Row = self.model.columns.iter().map(|one| one.default.clone()).collect();
        for (at, part) in iter::zip(&self.first.source.key, self.unpacked(&self.first.source, key)?) {
            row[*at] = part;
        }
        read_into(&mut row, &self.first.source, value)?;
        for part in &self.columns {
            if let Some(value) = part.map.get(key) {
                read_into(&mut row, &part.source, &value)?;
            }
        }
        Ok(row)
    }

    fn write(&mut self, row: Row, is_new: bool) -> Result<()> {
        let key = self.sized(&row, &self.first.source)?;
        let before = self.plain(&key)?;
        if is_new && before.is_some() {
            let shown = self.shown(&row, &self.first.source.key);
            return Err(Error::Constraint(format!("{}: there is a row of key {shown} already", self.model.name)));
        }
        let mut moves = Vec::new();
        for index in &self.indexes {
            let new = self.sized(&row, &index.source)?;
            let old = before.as_ref().map(|row| pack(&picked(row, &index.source.key))).transpose()?;
            if index.source.is_unique && old.as_ref() != Some(&new) {
                self.require_unique(index, &row, old.as_ref())?;
            }
            moves.push((old, new));
        }
        self.first.map.insert(key.clone(), value_of(&row, &self.first.source));
        for part in &mut self.columns {
            part.map.insert(key.clone(), value_of(&row, &part.source));
        }
        for (index, (old, new)) in iter::zip(&mut self.indexes, moves) {
            if old.as_ref() != Some(&new) {
                old.map(|old| index.map.remove(&old));
                index.map.insert(new, Vec::new());
            }
        }
        Ok(())
    }

    fn sized(&self, row: &Row, tree: &Tree) -> Result<Vec<u8>> {
        let key = pack(&picked(row, &tree.key))?;
        if key.len() <= MAX_KEY_BYTES {
            return Ok(key);
        }
        let size = key.len();
        Err(Error::Constraint(format!("{}: a key of {size} bytes, at most {MAX_KEY_BYTES} are taken", tree.name)))
    }

    /// Null is equal to nothing, as in SQL.
    fn require_unique(&self, index: &Part<M>, row: &Row, old: Option<&Vec<u8>>) -> Result<()> {
        let own = &index.source.key[..index.source.width];
        let values = picked(row, own);
        if values.contains(&Value::Null) {
            return Ok(());
        }
        let low = pack(&values)?;
        let high = prefix_end(&low);
        if index.map.keys_range(low..high).any(|found| Some(&found) != old) {
            let shown = self.shown(row, own);
            return Err(Error::Constraint(format!("{}: another row has {shown} already", self.model.name)));
        }
        Ok(())
    }

    fn shown(&self, row: &Row, columns: &[usize]) -> String {
        let one = |at: &usize| format!("{}={}", self.model.columns[*at].name, brief(&row[*at]));
        columns.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    // -- rows as types of serde

    fn row<T: Serialize>(&self, row: &T) -> Result<Row> {
        let fault = |what: String| Error::Value(format!("{}: {what}", self.model.name));
        let found = Value::serialized(row).map_err(|error| fault(error.to_string()))?;
        let Value::Map(mut entries) = found else { return Err(fault("a row is a struct or a map".to_string())) };
        let mut out = Row::new();
        for column in &self.model.columns {
            let is_named = column.state != State::Unused;
            let at = entries.iter().position(|(name, _)| is_named && name.as_text() == Some(&column.name));
            out.push(match at {
                Some(at) => accepted(column, entries.swap_remove(at).1)?,
                None if is_named => accepted(column, column.default.clone())?,
                None => Value::Null,
            });
        }
        match entries.first() {
            Some((name, _)) => Err(fault(format!("no column {}", brief(name)))),
            None => Ok(out),
        }
    }

    fn typed<T: DeserializeOwned>(&self, row: Row) -> Result<T> {
        let named = iter::zip(&self.model.columns, row).filter(|(column, _)| column.state != State::Unused);
        let entries = named.map(|(column, value)| (column.name.as_str().into(), value)).collect();
        let fault = |error| Error::Malformed(format!("{}: {error}", self.model.name));
        Value::Map(entries).deserialized().map_err(fault)
    }
}

fn bound(key: Option<Vec<u8>>, is_low: bool) -> Bound<Vec<u8>> {
    match key {
        None => Bound::Unbounded,
        Some(key) if is_low => Bound::Included(key),
        Some(key) => Bound::Excluded(key),
    }
}

fn picked(row: &Row, columns: &[usize]) -> Vec<Value> {
    columns.iter().map(|at| row[*at].clone()).collect()
}

fn value_of(row: &Row, tree: &Tree) -> Vec<u8> {
    if tree.value.is_empty() { Vec::new() } else { cbor::write(&Value::Array(picked(row, &tree.value))) }
}

/// The columns of a value; one that is too short is from before the last columns came.
fn read_into(row: &mut Row, tree: &Tree, value: &[u8]) -> Result<()> {
    if tree.value.is_empty() {
        return Ok(());
    }
    let fault = |found: &Value| {
        let most = tree.value.len();
        Err(Error::Malformed(format!("tree {}: an array of at most {most}, found {}", tree.name, brief(found))))
    };
    match cbor::read(value)? {
        Value::Array(items) if items.len() <= tree.value.len() => {
            iter::zip(&tree.value, items).for_each(|(at, item)| row[*at] = item);
            Ok(())
        }
        other => fault(&other),
    }
}

/// A value as its column holds it.
fn accepted(column: &Column, value: Value) -> Result<Value> {
    let fault = |value: &Value| {
        let (name, kind) = (&column.name, &column.kind);
        Err(Error::Value(format!("column {name:?} holds {kind}, found {}", brief(value))))
    };
    let is_right = match (&value, column.kind.as_str()) {
        (Value::Null, _) if column.is_optional => true,
        (Value::Null, _) => return Err(Error::Value(format!("column {:?} is never null", column.name))),
        (found, "any") => nesting_of(found) <= MAX_NESTING,
        (Value::Integer(found), "f32" | "f64") => return Ok(Value::Float(i128::from(*found) as f64)),
        (Value::Float(found), "f32" | "f64") => !found.is_nan(), // which has no place in an order
        (Value::Text(_), "String" | "text") | (Value::Bool(_), "bool") => true,
        (Value::Bytes(found), "Principal" | "principal") => found.len() <= 29,
        (Value::Array(parts), "uri") => {
            parts.len() == 2
                && parts[0].as_bytes().is_some_and(|found| found.len() <= 29)
                && (parts[1].is_text() || parts[1].is_bytes() || integer(&parts[1]).is_some())
        }
        (found, kind) => match (integer_bits(kind), integer(found)) {
            (Some((is_signed, bits)), Some((is_negative, magnitude))) => {
                let width = bits_of(&magnitude);
                // The least of a signed type has a bit more than the others.
                let is_least =
                    is_negative && width == bits && magnitude.iter().map(|one| one.count_ones()).sum::<u32>() == 1;
                if is_signed { width < bits || is_least } else { !is_negative && width <= bits }
            }
            (None, None) => found.is_bytes() && !matches!(kind, "String" | "text" | "bool" | "f32" | "f64" | "uri"),
            _ => false,
        },
    };
    if is_right { Ok(value) } else { fault(&value) }
}

/// Whether a type of integers is signed, and its bits; `None`: it is none.
fn integer_bits(kind: &str) -> Option<(bool, u32)> {
    let kind = kind.strip_suffix("le").unwrap_or(kind);
    let bits = kind.get(1..)?.parse().ok().filter(|bits| [8, 16, 32, 64, 128].contains(bits))?;
    match kind.as_bytes()[0] {
        b'u' => Some((false, bits)),
        b'i' => Some((true, bits)),
        _ => None,
    }
}

fn bits_of(magnitude: &[u8]) -> u32 {
    magnitude.first().map_or(0, |first| 8 * magnitude.len() as u32 - first.leading_zeros())
}

fn nesting_of(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(nesting_of).max().unwrap_or(0),
        Value::Map(entries) => 1 + entries.iter().map(|(_, one)| nesting_of(one)).max().unwrap_or(0),
        _ => 0,
    }
}
