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
/// An event that cannot be sent for want of memory leaves a hole, which tells the listeners that they missed one.
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

    /// Tells the listeners that an object was created, changed, or (whatever `event` says) is gone. `line` says why, if
    /// that is known. Takes the engine's lock; does not wait for the listeners.
    pub(crate) fn send(
        &self,
        event: EventKind,
        resource: &Resource,
        object: Object,
        line: Option<&str>,
    ) {
        match Record::of(resource, object).filter(|_| event != EventKind::Destroy) {
            Some(record) => self.send_record(event, &record, line),
            None => self.send_record(EventKind::Destroy, &Record::gone(resource, object), line),
        }
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
