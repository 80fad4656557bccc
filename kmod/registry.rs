// SPDX-License-Identifier: GPL-2.0-only

//! Which resources and minors there are.
//!
//! The lock of the tables is held for a look only: nothing is called under it.

use crate::links::{Answer, DaemonListener};
use crate::resource::Resource;
use kernel::{
    new_mutex,
    prelude::*,
    sync::{Arc, Mutex},
};
use weft_uapi::refusal::Refusal;
use weft_uapi::units::{Minor, NodeSet};

/// All resources of the module, and the minors that are in use.
#[pin_data]
pub(crate) struct Registry {
    #[pin]
    tables: Mutex<Tables>,
}

struct Tables {
    /// In ascending order of their ids, which are never used again.
    resources: KVec<(u64, Arc<Resource>)>,
    last_id: u64,
    minors: KVec<Minor>,
}

/// A minor that belongs to one device.
pub(crate) struct MinorLease {
    registry: Arc<Registry>,
    minor: Minor,
}

impl Registry {
    /// No resources.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let tables = Tables {
            resources: KVec::new(),
            last_id: 0,
            minors: KVec::new(),
        };
        Arc::pin_init(pin_init!(Self { tables <- new_mutex!(tables) }), GFP_KERNEL)
    }

    /// Makes a resource known. Fails if there is one of that name.
    pub(crate) fn insert(&self, resource: Arc<Resource>) -> Result<(), Refusal> {
        let mut tables = self.tables.lock();
        if tables
            .resources
            .iter()
            .any(|(_, other)| other.name() == resource.name())
        {
            return Err(Refusal::ResourceExists);
        }
        let id = tables.last_id.saturating_add(1);
        tables
            .resources
            .push((id, resource), GFP_KERNEL)
            .map_err(|_| Refusal::NoMemory)?;
        tables.last_id = id;
        Ok(())
    }

    /// Forgets a resource.
    pub(crate) fn remove(&self, resource: &Arc<Resource>) {
        let mut tables = self.tables.lock();
        let index = tables
            .resources
            .iter()
            .position(|(_, other)| Arc::ptr_eq(other, resource));
        let removed = index.and_then(|index| tables.resources.remove(index).ok());
        drop(tables);
        // Perhaps the last reference: not under the lock.
        drop(removed);
    }

    /// The resource of that name.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Resource>> {
        let tables = self.tables.lock();
        tables
            .resources
            .iter()
            .find(|(_, resource)| resource.name() == name)
            .map(|(_, resource)| resource.clone())
    }

    /// The first resource whose id is larger than `id`, with its id.
    pub(crate) fn next_after(&self, id: u64) -> Option<(u64, Arc<Resource>)> {
        self.tables
            .lock()
            .resources
            .iter()
            .find(|(other, _)| *other > id)
            .cloned()
    }

    /// Takes a minor that no device has.
    pub(crate) fn lease(self: &Arc<Self>, minor: Minor) -> Result<MinorLease, Refusal> {
        let mut tables = self.tables.lock();
        if tables.minors.contains(&minor) {
            return Err(Refusal::VolumeExists);
        }
        tables
            .minors
            .push(minor, GFP_KERNEL)
            .map_err(|_| Refusal::NoMemory)?;
        Ok(MinorLease {
            registry: self.clone(),
            minor,
        })
    }
}

impl Drop for MinorLease {
    fn drop(&mut self) {
        self.registry
            .tables
            .lock()
            .minors
            .retain(|minor| *minor != self.minor);
    }
}

impl DaemonListener for Registry {
    fn daemon_changed(&self, resource: Option<&str>, served: bool, connected: NodeSet) {
        let mut last = 0;
        while let Some((id, next)) = self.next_after(last) {
            if resource.is_none_or(|name| name == next.name()) {
                next.daemon_changed(served, connected);
            }
            last = id;
        }
    }

    fn daemon_answered(&self, resource: &str, answer: &Answer) {
        // It may be gone meanwhile.
        if let Some(resource) = self.find(resource) {
            resource.daemon_answered(answer);
        }
    }
}
