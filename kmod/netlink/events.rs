// SPDX-License-Identifier: GPL-2.0-only

//! Events: what changed, to all listeners of the multicast group.

use super::record::Record;
use crate::resource::Resource;
use crate::sys::genl::Notification;
use kernel::{
    new_mutex,
    prelude::*,
    sync::{Arc, Mutex},
};
use weft_engine::effect::Object;
use weft_uapi::status::EventKind;

/// Gives every event of the module its sequence number.
///
/// An event that cannot be sent, for want of memory or because there are too many, leaves a hole, which tells the listeners that they missed one.
#[pin_data]
pub(crate) struct Events {
    #[pin]
    last_seq: Mutex<u64>,
}

impl Events {
    /// No event yet; the first has number 1.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(pin_init!(Self { last_seq <- new_mutex!(0) }), GFP_KERNEL)
    }

    /// Tells the listeners what became of an object since they last heard of it, as `known` remembers. `line` says why,
    /// if that is known. Takes the engine's lock; does not wait for the listeners.
    pub(crate) fn send(
        &self,
        known: &mut Known,
        resource: &Resource,
        object: Object,
        line: Option<&str>,
    ) {
        let record = Record::of(resource, object);
        let Some(event) = known.update(object, record.is_some()) else {
            return;
        };
        let record = record.unwrap_or_else(|| Record::gone(resource, object));
        self.send_record(event, &record, line);
    }

    /// Something changed that listeners are not told: leaves a hole.
    pub(crate) fn miss(&self) {
        let mut last = self.last_seq.lock();
        *last = last.saturating_add(1);
    }

    fn send_record(&self, event: EventKind, record: &Record, line: Option<&str>) {
        // Held while it is sent, so that events arrive in the order of their numbers.
        let mut last = self.last_seq.lock();
        *last = last.saturating_add(1);
        if let Ok(notification) =
            Notification::new(*last, event, record.kind(), record.as_bytes(), line)
        {
            notification.send();
        }
    }
}

/// The objects of one resource that listeners have heard of.
pub(crate) struct Known(KVec<Object>);

impl Known {
    /// None.
    pub(crate) const fn new() -> Self {
        Self(KVec::new())
    }

    /// What to tell of an object that exists, or not; `None` if listeners never heard of it and need not.
    fn update(&mut self, object: Object, exists: bool) -> Option<EventKind> {
        let index = self.0.iter().position(|known| *known == object);
        match (index, exists) {
            (Some(_), true) => Some(EventKind::Change),
            (Some(index), false) => {
                let _ = self.0.remove(index);
                Some(EventKind::Destroy)
            }
            (None, true) => {
                // Without memory it is told once more that the object was created.
                let _ = self.0.push(object, GFP_KERNEL);
                Some(EventKind::Create)
            }
            (None, false) => None,
        }
    }
}
