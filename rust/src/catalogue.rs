//! The catalogue: what every tree of a model is, in one cell. `docs/formats.md` of perdure draws its bytes.

use crate::tuple::brief;
use crate::{Error, Result, Value, cbor};

const MAGIC: &[u8] = b"PDCT";
const VERSION: u8 = 1;
/// The memory of the manager in which programs keep it. Readers know it by its magic.
pub const CATALOGUE_ID: u8 = 254;

/// Whether a version of the program names a model, column or tree still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Active,
    /// Read, never written.
    Deprecated,
    /// No version names it any more; its bytes stay.
    Unused,
}

const STATES: [(State, &str); 3] =
    [(State::Active, "active"), (State::Deprecated, "deprecated"), (State::Unused, "unused")];

#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub name: String,
    /// The name of its format: `u64`, `String`, `Vec<u8>`, `Principal`, `any`, `uri`, `candid(...)` ...
    pub kind: String,
    pub is_optional: bool,
    /// Of rows from before it was there.
    pub default: Value,
    pub state: State,
}

impl Column {
    /// A column that is never null.
    pub fn new(name: &str, kind: &str) -> Self {
        let (name, kind) = (name.to_string(), kind.to_string());
        Column { name, kind, is_optional: false, default: Value::Null, state: State::Active }
    }

    /// A column that may be null.
    pub fn optional(name: &str, kind: &str) -> Self {
        Column { is_optional: true, ..Column::new(name, kind) }
    }
}

/// A tree of a model; the first one has every row.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    pub name: String,
    pub memory_id: u8,
    /// Indexes of the columns in its keys, in their order; and of those in its values.
    pub key: Vec<usize>,
    pub value: Vec<usize>,
    /// How many columns of the key it is looked up by; the others only tell its entries apart.
    pub width: usize,
    pub is_unique: bool,
    pub state: State,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    pub name: String,
    /// `table`, `verb`, `triples` or `documents`.
    pub kind: String,
    pub columns: Vec<Column>,
    pub trees: Vec<Tree>,
    /// Type definitions as in a `.did` file.
    pub definitions: String,
    pub state: State,
}

impl Model {
    /// A table of rows by `key`, with indexes and with columns of which no two rows have the same values.
    ///
    /// `Store::create` gives its trees their memories.
    pub fn table(
        name: &str,
        columns: Vec<Column>,
        key: &[&str],
        indexes: &[&[&str]],
        unique: &[&[&str]],
    ) -> Result<Self> {
        let place = |wanted: &&str| {
            columns
                .iter()
                .position(|one| one.name == **wanted)
                .ok_or_else(|| Error::Value(format!("{name}: no column {wanted:?}")))
        };
        let places = |names: &[&str]| names.iter().map(place).collect::<Result<Vec<usize>>>();
        let own = places(key)?;
        let rest = (0..columns.len()).filter(|one| !own.contains(one)).collect();
        let tree = |name: String, key: Vec<usize>, width, is_unique| Tree {
            name,
            memory_id: 0,
            key,
            value: Vec::new(),
            width,
            is_unique,
            state: State::Active,
        };
        let mut trees = vec![Tree { value: rest, ..tree(name.to_string(), own.clone(), own.len(), false) }];
        for (wanted, is_unique) in indexes.iter().map(|one| (one, false)).chain(unique.iter().map(|one| (one, true))) {
            let mut whole = places(wanted)?;
            whole.extend(own.iter().filter(|one| !whole.contains(one)).copied().collect::<Vec<_>>());
            trees.push(tree(format!("{name}_by_{}", wanted.join("_")), whole, wanted.len(), is_unique));
        }
        let (name, kind) = (name.to_string(), "table".to_string());
        let model = Model { name, kind, columns, trees, definitions: String::new(), state: State::Active };
        model.check()?;
        Ok(model)
    }

    /// Pairs of a subject and an object, navigable both ways; `data` is the type of a pair's value.
    pub fn verb(name: &str, subject: &str, object: &str, data: Option<&str>) -> Result<Self> {
        let mut columns = vec![Column::new("subject", subject), Column::new("object", object)];
        columns.extend(data.map(|kind| Column::optional("data", kind)));
        let model = Model::table(name, columns, &["subject", "object"], &[&["object"]], &[])?;
        Ok(Model { kind: "verb".to_string(), ..model })
    }

    fn check(&self) -> Result<()> {
        let count = self.columns.len();
        let fault = |what: &str| Err(Error::Malformed(format!("catalogue: {}: {what}", self.name)));
        if self.trees.is_empty() {
            return fault("no tree");
        }
        for tree in &self.trees {
            let mut places: Vec<usize> = tree.key.iter().chain(&tree.value).copied().collect();
            places.sort_unstable();
            if places.last().is_some_and(|last| *last >= count) {
                return fault("a tree of a column that is not there");
            }
            if tree.width == 0 || tree.width > tree.key.len() {
                return fault("a tree that is looked up by nothing, or by more than its key");
            }
            if places.windows(2).any(|pair| pair[0] == pair[1]) {
                return fault("a tree that has a column twice");
            }
        }
        Ok(())
    }
}

/// All models of a memory manager.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Catalogue {
    pub models: Vec<Model>,
}

impl Catalogue {
    pub fn model(&self, name: &str) -> Option<&Model> {
        self.models.iter().find(|one| one.name == name)
    }

    pub(crate) fn is_one(data: &[u8]) -> bool {
        data.starts_with(MAGIC)
    }

    pub fn decode(data: &[u8]) -> Result<Self> {
        let Some((version, rest)) = data.strip_prefix(MAGIC).and_then(|rest| rest.split_first()) else {
            return Err(Error::Malformed(format!("catalogue: bad magic {:02x?}", &data[..data.len().min(4)])));
        };
        if *version != VERSION {
            return Err(Error::Malformed(format!("catalogue: version {version}; this crate reads {VERSION}")));
        }
        let mut fields = Fields::of(cbor::read(rest)?, "catalogue")?;
        let models = fields.list(1, |one| Model::from_fields(Fields::of(one, "model")?))?;
        if !fields.list(2, Ok)?.is_empty() {
            let what = "rows are on their way by a migration in steps: let the canister in Python finish it first";
            return Err(Error::Malformed(format!("catalogue: {what}")));
        }
        fields.end()?;
        let found = Catalogue { models };
        found.check()?;
        Ok(found)
    }

    fn check(&self) -> Result<()> {
        let used = |tree: &&Tree| tree.state != State::Unused;
        let mut ids: Vec<u8> =
            self.models.iter().flat_map(|one| &one.trees).filter(used).map(|one| one.memory_id).collect();
        let mut names: Vec<&str> = self.models.iter().map(|one| one.name.as_str()).collect();
        ids.sort_unstable();
        names.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) || names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Error::Malformed("catalogue: two models of one name, or two trees in one memory".to_string()));
        }
        self.models.iter().try_for_each(Model::check)
    }

    pub fn encode(&self) -> Vec<u8> {
        let models = Value::Array(self.models.iter().map(Model::to_fields).collect());
        let fields = fields([(1, Some(models).filter(|_| !self.models.is_empty()))]);
        [MAGIC, &[VERSION], &cbor::write(&fields)].concat()
    }
}

// -- records: maps by number, what has its default left out

impl Model {
    fn from_fields(mut from: Fields) -> Result<Self> {
        let model = Model {
            name: from.text(1)?,
            kind: from.text(2)?,
            columns: from.list(3, |one| Column::from_fields(Fields::of(one, "column")?))?,
            trees: from.list(4, |one| Tree::from_fields(Fields::of(one, "tree")?))?,
            definitions: from.text_or(5, "")?,
            state: from.state(6)?,
        };
        from.end()?;
        Ok(model)
    }

    fn to_fields(&self) -> Value {
        fields([
            (1, Some(self.name.as_str().into())),
            (2, Some(self.kind.as_str().into())),
            (3, Some(Value::Array(self.columns.iter().map(Column::to_fields).collect()))),
            (4, Some(Value::Array(self.trees.iter().map(Tree::to_fields).collect()))),
            (5, Some(self.definitions.as_str().into()).filter(|_| !self.definitions.is_empty())),
            (6, written_state(self.state)),
        ])
    }
}

impl Column {
    fn from_fields(mut from: Fields) -> Result<Self> {
        let column = Column {
            name: from.text(1)?,
            kind: from.text(2)?,
            is_optional: from.bool(3)?,
            default: from.take(4).unwrap_or(Value::Null),
            state: from.state(5)?,
        };
        from.end()?;
        Ok(column)
    }

    fn to_fields(&self) -> Value {
        fields([
            (1, Some(self.name.as_str().into())),
            (2, Some(self.kind.as_str().into())),
            (3, self.is_optional.then_some(true.into())),
            (4, Some(self.default.clone()).filter(|one| !one.is_null())),
            (5, written_state(self.state)),
        ])
    }
}

impl Tree {
    fn from_fields(mut from: Fields) -> Result<Self> {
        let tree = Tree {
            name: from.text(1)?,
            memory_id: from.number(2)?.try_into().map_err(|_| from.fault(2, "a memory id"))?,
            key: from.list(3, index)?,
            value: from.list(4, index)?,
            width: from.number(5)? as usize,
            is_unique: from.bool(6)?,
            state: from.state(7)?,
        };
        from.end()?;
        Ok(tree)
    }

    fn to_fields(&self) -> Value {
        let indexes = |places: &[usize]| Value::Array(places.iter().map(|one| (*one as u64).into()).collect());
        fields([
            (1, Some(self.name.as_str().into())),
            (2, Some(u64::from(self.memory_id).into())),
            (3, Some(indexes(&self.key))),
            (4, Some(indexes(&self.value)).filter(|_| !self.value.is_empty())),
            (5, Some((self.width as u64).into())),
            (6, self.is_unique.then_some(true.into())),
            (7, written_state(self.state)),
        ])
    }
}

fn index(value: Value) -> Result<usize> {
    let found = value.as_integer().and_then(|one| u16::try_from(one).ok());
    found
        .map(usize::from)
        .ok_or_else(|| Error::Malformed(format!("catalogue: no index of a column: {}", brief(&value))))
}

fn written_state(state: State) -> Option<Value> {
    STATES.iter().find(|one| one.0 == state && state != State::Active).map(|one| one.1.into())
}

fn fields<const N: usize>(all: [(u64, Option<Value>); N]) -> Value {
    Value::Map(all.into_iter().filter_map(|(number, value)| value.map(|one| (number.into(), one))).collect())
}

struct Fields {
    what: &'static str,
    entries: Vec<(Value, Value)>,
}

impl Fields {
    fn of(value: Value, what: &'static str) -> Result<Self> {
        match value {
            Value::Map(entries) => Ok(Fields { what, entries }),
            other => Err(Error::Malformed(format!("{what}: no record: {}", brief(&other)))),
        }
    }

    fn fault(&self, number: u64, expected: &str) -> Error {
        Error::Malformed(format!("{}: field {number} is missing, or not {expected}", self.what))
    }

    fn take(&mut self, number: u64) -> Option<Value> {
        let at = self.entries.iter().position(|(key, _)| *key == Value::from(number))?;
        Some(self.entries.remove(at).1)
    }

    fn text(&mut self, number: u64) -> Result<String> {
        let found = self.take(number).and_then(|one| one.into_text().ok());
        found.ok_or_else(|| self.fault(number, "text"))
    }

    fn text_or(&mut self, number: u64, default: &str) -> Result<String> {
        match self.take(number) {
            None => Ok(default.to_string()),
            Some(found) => found.into_text().map_err(|_| self.fault(number, "text")),
        }
    }

    fn number(&mut self, number: u64) -> Result<u64> {
        let found = self.take(number).and_then(|one| one.as_integer()).and_then(|one| u64::try_from(one).ok());
        found.ok_or_else(|| self.fault(number, "a number"))
    }

    fn bool(&mut self, number: u64) -> Result<bool> {
        match self.take(number) {
            None => Ok(false),
            Some(found) => found.as_bool().ok_or_else(|| self.fault(number, "a bool")),
        }
    }

    fn list<T>(&mut self, number: u64, each: impl Fn(Value) -> Result<T>) -> Result<Vec<T>> {
        match self.take(number) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items.into_iter().map(each).collect(),
            Some(_) => Err(self.fault(number, "a list")),
        }
    }

    fn state(&mut self, number: u64) -> Result<State> {
        let text = self.text_or(number, "active")?;
        let found = STATES.iter().find(|one| one.1 == text).map(|one| one.0);
        found.ok_or_else(|| self.fault(number, "active, deprecated or unused"))
    }

    fn end(&self) -> Result<()> {
        match self.entries.first() {
            None => Ok(()),
            Some((key, _)) => Err(Error::Malformed(format!("{}: unknown field {}", self.what, brief(key)))),
        }
    }
}
