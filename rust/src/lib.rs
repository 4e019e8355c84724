//! Tables and verbs that `perdure.data` keeps in stable memory, read and written from Rust.
//!
//! A canister written in Python declares its tables; a catalogue in its stable memory says what each tree is. This crate
//! opens them by that catalogue, so that a canister in Rust goes on with the same data, and one in Python after it.
//!
//! ```
//! use ic_stable_structures::{VectorMemory, memory_manager::MemoryManager};
//! use perdure_data::{Column, Model, Store, Table};
//!
//! #[derive(serde::Serialize, serde::Deserialize, Debug, PartialEq)]
//! struct User {
//!     id: u64,
//!     email: String,
//!     city: Option<String>,
//! }
//!
//! # fn main() -> Result<(), perdure_data::Error> {
//! let mut store = Store::new(MemoryManager::init(VectorMemory::default()))?; // `Store::open` where Python made it
//! let columns = vec![Column::new("id", "u64"), Column::new("email", "String"), Column::optional("city", "String")];
//! store.create(Model::table("users", columns, &["id"], &[&["city"]], &[&["email"]])?)?;
//!
//! let mut users: Table<_> = store.table("users")?;
//! let ada = User { id: 7, email: "ada@example.org".into(), city: Some("Zug".into()) };
//! users.put(&ada)?;
//! assert_eq!(users.get::<User>(&[7.into()])?, Some(ada));
//! assert_eq!(users.by::<User>(&["city"], &["Zug".into()])?.count(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! Values are `ciborium::Value`, or whatever serde makes of them; bytes are of `serde_bytes`, principals of `candid`.
//! What a column holds that CBOR has no form for, Candid values among it, is the bytes of its type.

mod catalogue;
mod cbor;
mod store;
mod table;
pub mod tuple;
mod verb;

pub use catalogue::{CATALOGUE_ID, Catalogue, Column, Model, State, Tree};
pub use ciborium::Value;
pub use store::Store;
pub use table::Table;
pub use verb::Verb;

/// What went wrong, in words: of bytes that do not read, of a row that its table does not take.
///
/// Nothing was written where one is returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// Bytes are not what the catalogue says, or there is none.
    Malformed(String),
    /// A value is none of its column, or there is no such column, index or model.
    Value(String),
    /// A key or unique values that another row has; a key too long.
    Constraint(String),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Malformed(text) | Error::Value(text) | Error::Constraint(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

pub type Result<T> = std::result::Result<T, Error>;
