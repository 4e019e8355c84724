//! The models of one memory manager: the catalogue, and which trees are open.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use ic_stable_structures::memory_manager::{MemoryId, MemoryManager, VirtualMemory};
use ic_stable_structures::{Cell, Memory};

use crate::catalogue::{CATALOGUE_ID, Catalogue, Model, State};
use crate::{Error, Result, Table, Verb};

const CELL_MAGIC: &[u8] = b"SCL";
const LAST_ID: u8 = 254;

/// The data models of a memory manager.
pub struct Store<M: Memory> {
    manager: MemoryManager<M>,
    catalogue_id: u8,
    catalogue: Catalogue,
    lent: Rc<RefCell<BTreeSet<u8>>>,
}

impl<M: Memory> Store<M> {
    /// The models that are there already.
    pub fn open(manager: MemoryManager<M>) -> Result<Self> {
        for id in std::iter::once(CATALOGUE_ID).chain(0..CATALOGUE_ID) {
            if let Some(data) = cell(&manager, id).filter(|data| Catalogue::is_one(data)) {
                let catalogue = Catalogue::decode(&data)?;
                return Ok(Store { manager, catalogue_id: id, catalogue, lent: Rc::default() });
            }
        }
        Err(Error::Malformed("no catalogue in any memory: nothing here was declared by perdure.data".to_string()))
    }

    /// An empty store, its catalogue in memory 254.
    pub fn new(manager: MemoryManager<M>) -> Result<Self> {
        if manager.get(MemoryId::new(CATALOGUE_ID)).size() > 0 {
            return Err(Error::Malformed(format!("memory {CATALOGUE_ID} is in use: open what is there")));
        }
        Ok(Store { manager, catalogue_id: CATALOGUE_ID, catalogue: Catalogue::default(), lent: Rc::default() })
    }

    /// Everything that there is; what `Table` reads and writes by.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// The manager, for memories of your own. Trees take them from above.
    pub fn manager(&self) -> &MemoryManager<M> {
        &self.manager
    }

    /// Add a model, whose trees get memories that nothing is in.
    pub fn create(&mut self, mut model: Model) -> Result<()> {
        if self.catalogue.model(&model.name).is_some() {
            return Err(Error::Value(format!("there is {:?} already", model.name)));
        }
        let taken: BTreeSet<u8> =
            self.catalogue.models.iter().flat_map(|one| &one.trees).map(|one| one.memory_id).collect();
        let is_free = |id: &u8| {
            !taken.contains(id) && *id != self.catalogue_id && self.manager.get(MemoryId::new(*id)).size() == 0
        };
        let mut free = (0..=LAST_ID).rev().filter(is_free);
        for tree in &mut model.trees {
            tree.memory_id = free
                .next()
                .ok_or_else(|| Error::Value(format!("{:?} needs a memory, and all are taken", model.name)))?;
        }
        let mut grown = self.catalogue.clone();
        grown.models.push(model);
        let data = grown.encode();
        self.catalogue = Catalogue::decode(&data)?; // whatever was put together by hand is looked at as what is read
        Cell::init(self.manager.get(MemoryId::new(self.catalogue_id)), data.clone()).set(data);
        Ok(())
    }

    /// A table, opened. Keep it: while it is there it is not opened again, as it remembers the roots of its trees.
    pub fn table(&self, name: &str) -> Result<Table<M>> {
        Table::open(self, self.model(name, "table")?)
    }

    /// A verb, opened. Keep it, as a table.
    pub fn verb(&self, name: &str) -> Result<Verb<M>> {
        Ok(Verb::over(Table::open(self, self.model(name, "verb")?)?))
    }

    fn model(&self, name: &str, kind: &str) -> Result<&Model> {
        let found = self.catalogue.model(name).filter(|one| one.kind == kind && one.state != State::Unused);
        found.ok_or_else(|| {
            let names: Vec<String> =
                self.catalogue.models.iter().map(|one| format!("{} {}", one.kind, one.name)).collect();
            Error::Value(format!("no {kind} {name:?}, there are: {}", names.join(", ")))
        })
    }

    pub(crate) fn lend(&self, model: &Model) -> Result<Loan> {
        let ids: Vec<u8> =
            model.trees.iter().filter(|one| one.state != State::Unused).map(|one| one.memory_id).collect();
        let mut lent = self.lent.borrow_mut();
        if ids.iter().any(|id| lent.contains(id)) {
            return Err(Error::Value(format!("{:?} is open already: keep the one that you have", model.name)));
        }
        if ids.iter().any(|id| *id > LAST_ID || *id == self.catalogue_id) {
            return Err(Error::Malformed(format!("catalogue: {:?} has a tree in a memory of another use", model.name)));
        }
        lent.extend(&ids);
        Ok(Loan { ids, lent: Rc::clone(&self.lent) })
    }

    pub(crate) fn memory(&self, id: u8) -> VirtualMemory<M> {
        self.manager.get(MemoryId::new(id))
    }
}

/// The trees that a table has open; they are given back when it goes.
pub(crate) struct Loan {
    ids: Vec<u8>,
    lent: Rc<RefCell<BTreeSet<u8>>>,
}

impl Drop for Loan {
    fn drop(&mut self) {
        let mut lent = self.lent.borrow_mut();
        self.ids.iter().for_each(|id| {
            lent.remove(id);
        });
    }
}

/// The value of a cell; `None`: the memory has none. Nothing is written, as `Cell::init` would.
fn cell<M: Memory>(manager: &MemoryManager<M>, id: u8) -> Option<Vec<u8>> {
    let memory = manager.get(MemoryId::new(id));
    let mut magic = [0; 3];
    if memory.size() == 0 {
        return None;
    }
    memory.read(0, &mut magic);
    (magic == CELL_MAGIC).then(|| Cell::<Vec<u8>, _>::init(memory, Vec::new()).get().clone())
}
