// SPDX-License-Identifier: GPL-2.0-only

//! Links: the byte channels between a resource and the daemon, one *data* and one *meta* link per session.
//!
//! ```text
//!            offer            accept both           end, or fail
//! Sessions ---------> Offered -----------> Up ----------------------> Down
//!                        |                                             ^
//!                        +---------------------------------------------+
//! ```
//!
//! A session never comes back: after its end the engine asks for a new one with a new number. Either link's death is
//! the session's death, so no packet of one session can reach another and none is lost in the middle.
//!
//! | who | in which context | calls |
//! |---|---|---|
//! | the resource, under its engine's lock | process | [`Sessions`] |
//! | the resource, after that | process, may sleep briefly | [`Sending`] |
//! | the daemon's threads | process, may sleep briefly | `LinkFile` through `ioctl`, `poll`, `close` |
//! | the control device | process | [`Offers`] |
//!
//! The daemon connects, and *ties* each link to its connection. What is queued is sent by whoever queued it, right after it has
//! released the engine's lock; what arrives is taken by the daemon's thread that hears of it, and so is what is left when a
//! connection was full.
//!
//! Lock order: `incoming` of a link, or the telling of the daemon → the resource's engine → the offers → `outgoing` of a
//! link; and `sender` of a link → `outgoing`. Whoever ends a session may hold the engine's lock, so the end waits for neither of the
//! first two, nor for a sender.

mod arrived;
mod asks;
mod daemon;
mod link;
mod offer;
mod receive;
mod send;
mod stream;
mod table;

pub(crate) use offer::{Answer, DaemonListener, Message, Offers};
pub(crate) use table::{Sending, Sessions};

use crate::sys::file::Readiness;
use crate::sys::pages::Payload;
use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{ordering, Atomic},
        Arc, SpinLock,
    },
};
use link::Link;
use receive::ReceiveError;
use weft_uapi::status::Name;
use weft_uapi::units::{NodeId, SessionId};
use weft_uapi::wire::{Header, LinkKind};

/// The resource as its sessions see it. Called in process context without a lock of the links held, except that
/// packets of one link come one at a time.
pub(crate) trait SessionOwner: Send + Sync {
    /// Both links are connected; packets may be sent from now on, and none has come yet.
    fn session_up(&self, peer: NodeId, session: SessionId);

    /// Packets came in, syntax and checksums are right: takes them from `next` while there is room for what comes over this link.
    /// The payload of those that carry no data is empty.
    fn packets(
        &self,
        peer: NodeId,
        session: SessionId,
        link: LinkKind,
        next: &mut dyn FnMut() -> Option<(Header, Option<Payload>)>,
    );

    /// A packet came in, syntax and checksums are right, whose payload is a body.
    fn packet(&self, peer: NodeId, session: SessionId, link: LinkKind, header: Header, body: &[u8]);

    /// The session is over, not by the resource's own doing. Comes once.
    fn session_down(&self, peer: NodeId, session: SessionId, reason: &str);
}

/// Why a session ended without the engine's doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DownReason {
    /// The daemon closed a link: the connection to the peer broke, or it gave up.
    LinkClosed,
    /// The daemon is gone.
    DaemonGone,
    /// The daemon hangs.
    DaemonSilent,
    /// The peer sent something that is no packet.
    Garbage(ReceiveError),
    /// No memory for a packet.
    NoMemory,
}

impl DownReason {
    /// A short sentence for people.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::LinkClosed => "the connection was closed",
            Self::DaemonGone => "the daemon is gone",
            Self::DaemonSilent => "the daemon hangs",
            Self::Garbage(error) => error.text(),
            Self::NoMemory => "no memory for a packet",
        }
    }
}

/// Values of [`Session::phase`], which only grows.
const OFFERED: u32 = 0;
const UP: u32 = 1;
const DOWN: u32 = 2;

/// One session with one peer: a pair of links that live and die together.
#[pin_data]
pub(crate) struct Session {
    resource: Name,
    node: NodeId,
    peer: NodeId,
    id: SessionId,
    phase: Atomic<u32>,
    /// Whether the engine takes another packet of the data link. Packets of the meta link are always taken: they are
    /// what makes room.
    room: Atomic<bool>,
    offers: Arc<Offers>,
    /// Empty once the session is down, so that a descriptor left open does not keep the resource.
    #[pin]
    owner: SpinLock<Option<Arc<dyn SessionOwner>>>,
    #[pin]
    data: Link,
    #[pin]
    meta: Link,
}

impl Session {
    fn new(
        resource: Name,
        node: NodeId,
        peer: NodeId,
        id: SessionId,
        offers: Arc<Offers>,
        owner: Arc<dyn SessionOwner>,
    ) -> Result<Arc<Self>> {
        let session = try_pin_init!(Self {
            resource,
            node,
            peer,
            id,
            phase: Atomic::new(OFFERED),
            room: Atomic::new(true),
            offers,
            owner <- new_spinlock!(Some(owner)),
            data <- Link::new(),
            meta <- Link::new(),
        });
        Arc::pin_init(session, GFP_KERNEL)
    }

    fn link(&self, kind: LinkKind) -> &Link {
        match kind {
            LinkKind::Data => &self.data,
            LinkKind::Meta => &self.meta,
        }
    }

    fn is_down(&self) -> bool {
        self.phase.load(ordering::Acquire) == DOWN
    }

    fn may_receive(&self, kind: LinkKind) -> bool {
        self.phase.load(ordering::Acquire) == UP
            && (kind == LinkKind::Meta || self.room.load(ordering::Acquire))
    }

    fn owner(&self) -> Option<Arc<dyn SessionOwner>> {
        self.owner.lock().clone()
    }

    /// Both links were accepted: tells the resource, then lets packets in.
    fn bring_up(&self) {
        if let Some(owner) = self.owner() {
            owner.session_up(self.peer, self.id);
        }
        if self.phase.cmpxchg(OFFERED, UP, ordering::Full).is_ok() {
            self.data.poll.wake(Readiness::OUT);
            self.meta.poll.wake(Readiness::OUT);
        }
    }

    fn set_room(&self, room: bool) {
        let had = self.room.xchg(room, ordering::Full);
        if room && !had {
            self.data.poll.wake(Readiness::OUT);
        }
        self.data.feed();
    }

    /// Sends what is queued on one link or both. May sleep briefly; not under the engine's lock.
    fn transmit(&self) {
        self.data.transmit(self);
        self.meta.transmit(self);
    }

    /// Ends the session: drops what is queued, hangs both descriptors up, withdraws the offer. Returns whether this
    /// call did it. Does not tell the resource.
    fn end(&self) -> bool {
        if self.phase.xchg(DOWN, ordering::Full) == DOWN {
            return false;
        }
        self.data.hang_up();
        self.meta.hang_up();
        self.offers.withdraw(self);
        let owner = self.owner.lock().take();
        drop(owner);
        true
    }

    /// Ends the session and tells the resource why. Must not be called under the engine's lock.
    fn fail(&self, reason: DownReason) {
        let owner = self.owner();
        if self.end() {
            if let Some(owner) = owner {
                owner.session_down(self.peer, self.id, reason.text());
            }
        }
    }
}
