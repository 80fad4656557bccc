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
use weft_uapi::status::Name;
use weft_uapi::units::{Minor, NodeSet};

/// All resources of the module, and the minors that are in use.
#[pin_data]
pub(crate) struct Registry {
    #[pin]
    tables: Mutex<Tables>,
    /// Taken before a resource's lock, and before that of the tables.
    #[pin]
    turns: Mutex<()>,
}

struct Tables {
    /// In ascending order of their ids, which are never used again.
    resources: KVec<(u64, Arc<Resource>)>,
    last_id: u64,
    minors: KVec<Minor>,
    /// Whose resyncs wait for whose.
    afters: KVec<After>,
}

/// The resyncs of one resource wait for those of another one, which need not exist.
struct After {
    resource: Name,
    other: Name,
}

impl Tables {
    /// For whose resyncs those of a resource wait.
    fn after(&self, resource: &Name) -> Option<Name> {
        let found = self.afters.iter().find(|after| after.resource == *resource);
        found.map(|after| after.other)
    }

    /// All for whose resyncs those of a resource wait, the next one first.
    fn those_before(&self, resource: Name) -> impl Iterator<Item = Name> + '_ {
        core::iter::successors(self.after(&resource), |next| self.after(next))
    }

    fn may_wait(&self, resource: Name, other: Option<Name>) -> Result<(), Refusal> {
        let is_circle =
            |other| other == resource || self.those_before(other).any(|it| it == resource);
        match other.is_some_and(is_circle) {
            true => Err(Refusal::AfterCircle),
            false => Ok(()),
        }
    }

    /// INVARIANT: There is no circle, so that row ends.
    fn set_after(&mut self, resource: Name, other: Option<Name>) -> Result<(), Refusal> {
        self.may_wait(resource, other)?;
        self.afters.retain(|after| after.resource != resource);
        let Some(other) = other else {
            return Ok(());
        };
        let after = After { resource, other };
        let pushed = self.afters.push(after, GFP_KERNEL);
        pushed.map_err(|_| Refusal::NoMemory)
    }
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
            afters: KVec::new(),
        };
        let registry = pin_init!(Self {
            tables <- new_mutex!(tables),
            turns <- new_mutex!(()),
        });
        Arc::pin_init(registry, GFP_KERNEL)
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
        let name = resource.padded_name();
        tables.afters.retain(|after| after.resource != name);
        drop(tables);
        // Perhaps the last reference: not under the lock.
        drop(removed);
    }

    /// Whether the resyncs of a resource may wait for those of another one: not in a circle.
    pub(crate) fn may_wait(&self, resource: Name, other: Option<Name>) -> Result<(), Refusal> {
        self.tables.lock().may_wait(resource, other)
    }

    /// Has the resyncs of a resource wait for those of another one. Refused if that would be a circle.
    pub(crate) fn set_after(&self, resource: Name, other: Option<Name>) -> Result<(), Refusal> {
        self.tables.lock().set_after(resource, other)
    }

    /// For whose resyncs those of a resource wait.
    pub(crate) fn after(&self, resource: Name) -> Option<Name> {
        self.tables.lock().after(&resource)
    }

    /// Whether a resync is under way for which those of a resource wait.
    fn has_to_wait(&self, resource: Name) -> bool {
        let tables = self.tables.lock();
        let is_resyncing = |name: Name| {
            let mut resources = tables.resources.iter();
            resources.any(|(_, other)| other.padded_name() == name && other.is_resyncing())
        };
        let mut before = tables.those_before(resource);
        before.any(is_resyncing)
    }

    /// Tells every resource whether its resyncs have to wait. May sleep.
    pub(crate) fn give_turns(&self) {
        // One after the other, so that the last word is the latest.
        let _turns = self.turns.lock();
        let mut last = 0;
        while let Some((id, resource)) = self.next_after(last) {
            resource.set_turn(self.has_to_wait(resource.padded_name()));
            last = id;
        }
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
