//! A relation of subjects to objects, navigable both ways: a table whose key is both, and an index of the object.

use std::collections::BTreeMap;

use ic_stable_structures::Memory;

use crate::{Result, Table, Value};

/// Pairs of a subject and an object, each once; with a value, where it was declared with one.
///
/// A URI is an array of a canister's bytes and an id of its own there.
pub struct Verb<M: Memory> {
    table: Table<M>,
}

impl<M: Memory> Verb<M> {
    pub(crate) fn over(table: Table<M>) -> Self {
        Verb { table }
    }

    pub fn len(&self) -> u64 {
        self.table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub fn contains(&self, subject: &Value, object: &Value) -> Result<bool> {
        self.table.contains(&[subject.clone(), object.clone()])
    }

    /// Add a pair, or give one another value; whether it was not there.
    pub fn add(&mut self, subject: Value, object: Value, data: Option<Value>) -> Result<bool> {
        let is_new = !self.contains(&subject, &object)?;
        let mut row = BTreeMap::from([("subject", subject), ("object", object)]);
        row.extend(data.map(|data| ("data", data)));
        self.table.put(&row)?;
        Ok(is_new)
    }

    /// Remove a pair; whether it was there.
    pub fn remove(&mut self, subject: &Value, object: &Value) -> Result<bool> {
        self.table.remove(&[subject.clone(), object.clone()])
    }

    /// The value of a pair; `None`: there is no such pair, or it has none.
    pub fn data(&self, subject: &Value, object: &Value) -> Result<Option<Value>> {
        let row = self.table.get::<BTreeMap<String, Value>>(&[subject.clone(), object.clone()])?;
        Ok(row.and_then(|mut row| row.remove("data")).filter(|found| !found.is_null()))
    }

    /// The objects of a subject, in their order.
    pub fn objects(&self, subject: &Value) -> Result<impl Iterator<Item = Result<Value>>> {
        self.table.keys_with(None, subject, "object")
    }

    /// The subjects of an object, in their order.
    pub fn subjects(&self, object: &Value) -> Result<impl Iterator<Item = Result<Value>>> {
        self.table.keys_with(Some(&["object"]), object, "subject")
    }
}
