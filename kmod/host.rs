// SPDX-License-Identifier: GPL-2.0-only

//! What all resources of the module share.

use crate::links::Offers;
use crate::netlink::Events;
use crate::registry::Registry;
use crate::resource::Resource;
use crate::sys::gendisk::Major;
use crate::sys::pages::{PageReserve, Payload};
use kernel::{prelude::*, sync::Arc};
use weft_engine::effect::Object;
use weft_engine::event::Options;
use weft_uapi::control::padded_name;
use weft_uapi::limits::IO_BYTES_MAX;
use weft_uapi::refusal::Refusal;
use weft_uapi::resync::Speed;
use weft_uapi::status::Name;
use weft_uapi::units::NodeId;

/// The parts of the module that outlive every resource.
pub(crate) struct Host {
    /// All resources.
    pub(crate) registry: Arc<Registry>,
    /// Links for the daemon.
    pub(crate) offers: Arc<Offers>,
    /// Listeners to changes.
    pub(crate) events: Arc<Events>,
    /// Number of our block devices.
    pub(crate) major: Arc<Major>,
    /// As many zeros as the largest write has bytes.
    pub(crate) zeros: Payload,
}

impl Host {
    /// A module without resources. May sleep.
    pub(crate) fn new(major: Arc<Major>) -> Result<Arc<Self>> {
        let registry = Registry::new()?;
        let offers = Offers::new(registry.clone())?;
        let mut zeros = PageReserve::new(1)?.alloc(IO_BYTES_MAX)?;
        zeros.clear();
        let host = Self {
            registry,
            offers,
            events: Events::new()?,
            major,
            zeros: zeros.share(),
        };
        Ok(Arc::new(host, GFP_KERNEL)?)
    }

    /// Creates a resource without volumes and peers. May sleep.
    pub(crate) fn new_resource(
        self: &Arc<Self>,
        name: &str,
        node: NodeId,
        options: Options,
        after: Option<Name>,
        is_tie_breaker: bool,
    ) -> Result<(), Refusal> {
        let padded = padded_name(name)
            .filter(|_| !name.is_empty())
            .filter(|_| options.speed(Speed::default()).is_valid())
            .ok_or(Refusal::BadArgument)?;
        let resource = Resource::new(self.clone(), padded, node, options, is_tie_breaker)
            .map_err(|_| Refusal::NoMemory)?;
        self.registry.insert(resource.clone())?;
        if let Err(refusal) = self.registry.set_after(padded, after) {
            self.registry.remove(&resource);
            return Err(refusal);
        }
        self.offers
            .introduce(|served, connected| resource.daemon_changed(served, connected));
        resource.tell(Object::Resource);
        resource.change_turns();
        Ok(())
    }
}
