// SPDX-License-Identifier: GPL-2.0-only

//! What the daemon is told of sessions and what it says of nodes: the state behind the control device.
//!
//! Offers are level-triggered. A session stays listed from its offer to its end, and whoever opens the control device
//! anew is told every link that is still to be accepted.

use super::link::LinkFile;
use super::{DownReason, Session};
use crate::sys::file::{eproto, PollQueue, Readiness};
use crate::sys::pipe;
use kernel::{
    new_mutex,
    prelude::*,
    static_lock_class,
    sync::{Arc, Mutex},
    task::Pid,
};
use weft_uapi::control::{
    LinkAccept, LinkOffer, MessageHeader, NodeConnState, KERN_HANDSHAKE_DATA, KERN_HANDSHAKE_META,
    KERN_WITHDRAWN,
};
use weft_uapi::units::{NodeSet, SessionId};
use weft_uapi::version::CONTROL_ABI;
use weft_uapi::wire::LinkKind;

/// Who wants to know whether a daemon serves, and which nodes it reaches. Called in process context, unlocked.
pub(crate) trait DaemonListener: Send + Sync {
    /// The daemon came, went, or told of nodes: of one resource, or (`None`) of all.
    fn daemon_changed(&self, resource: Option<&str>, served: bool, connected: NodeSet);
}

/// The links of all resources, and the daemon that serves them.
#[pin_data]
pub(crate) struct Offers {
    listener: Arc<dyn DaemonListener>,
    /// Where readers of the control device wait.
    #[pin]
    poll: PollQueue,
    #[pin]
    state: Mutex<State>,
}

struct State {
    daemon: Option<Daemon>,
    sessions: KVec<Entry>,
    next_offer: u64,
}

/// The process that has the control device open.
struct Daemon {
    pid: Pid,
    epoch: u64,
    connected: NodeSet,
}

/// One session from its offer to its end (or until the daemon was told of that).
struct Entry {
    session: Arc<Session>,
    peer_session: u64,
    data: Handshake,
    meta: Handshake,
    withdrawn: bool,
}

/// How far the handshake for one link is.
struct Handshake {
    offer: u64,
    told: bool,
    accepted: bool,
}

impl Offers {
    /// No offers, no daemon. `listener` is told of daemons.
    pub(crate) fn new(listener: Arc<dyn DaemonListener>) -> Result<Arc<Self>> {
        let offers = try_pin_init!(Self {
            listener,
            poll <- PollQueue::new(c"weft_control", static_lock_class!()),
            state <- new_mutex!(State { daemon: None, sessions: KVec::new(), next_offer: 1 }),
        });
        Arc::pin_init(offers, GFP_KERNEL)
    }

    /// Whether a daemon serves, and which nodes it reaches.
    pub(crate) fn daemon(&self) -> (bool, NodeSet) {
        let state = self.state.lock();
        (
            state.daemon.is_some(),
            state
                .daemon
                .as_ref()
                .map_or(NodeSet::EMPTY, |daemon| daemon.connected),
        )
    }

    /// Offers both links of a new session to the daemon.
    pub(super) fn offer(&self, session: Arc<Session>) -> Result {
        let mut state = self.state.lock();
        let first = state.next_offer;
        let handshake = |offer| Handshake {
            offer,
            told: false,
            accepted: false,
        };
        let entry = Entry {
            session,
            peer_session: 0,
            data: handshake(first),
            meta: handshake(first.saturating_add(1)),
            withdrawn: false,
        };
        state.sessions.push(entry, GFP_KERNEL)?;
        state.next_offer = first.saturating_add(2);
        drop(state);
        self.poll.wake(Readiness::IN);
        Ok(())
    }

    /// The session is down: its offers are void.
    pub(super) fn withdraw(&self, session: &Session) {
        let mut state = self.state.lock();
        if let Some(index) = state
            .sessions
            .iter()
            .position(|entry| core::ptr::eq(&*entry.session, session))
        {
            if state.daemon.is_some() && state.sessions.get(index).is_some_and(Entry::is_told) {
                if let Some(entry) = state.sessions.get_mut(index) {
                    entry.withdrawn = true;
                }
            } else {
                let _ = state.sessions.remove(index);
            }
        }
        drop(state);
        self.poll.wake(Readiness::IN);
    }

    /// Where readers of the control device wait.
    pub(crate) fn poll_queue(&self) -> &PollQueue {
        &self.poll
    }

    /// A process opens the control device. `Err` has the pid of the one that has it open already.
    pub(crate) fn open(&self, pid: Pid) -> Result<(), Pid> {
        let mut state = self.state.lock();
        if let Some(daemon) = &state.daemon {
            return Err(daemon.pid);
        }
        state.daemon = Some(Daemon {
            pid,
            epoch: 0,
            connected: NodeSet::EMPTY,
        });
        drop(state);
        self.listener.daemon_changed(None, true, NodeSet::EMPTY);
        Ok(())
    }

    /// The control device was closed: ends every session with an accepted link and forgets what was told. Only then
    /// another process may open it, so that the listener hears of both in order.
    pub(crate) fn close(&self) {
        while let Some(session) = self.take_accepted() {
            session.fail(DownReason::DaemonGone);
        }
        self.listener.daemon_changed(None, false, NodeSet::EMPTY);
        let mut state = self.state.lock();
        state.daemon = None;
        state.sessions.retain(|entry| !entry.withdrawn);
        for entry in state.sessions.iter_mut() {
            entry.data.told = false;
            entry.meta.told = false;
        }
    }

    fn take_accepted(&self) -> Option<Arc<Session>> {
        let mut state = self.state.lock();
        let accepted = |entry: &Entry| entry.data.accepted || entry.meta.accepted;
        let index = state.sessions.iter().position(accepted)?;
        state.sessions.remove(index).ok().map(|entry| entry.session)
    }

    /// Whether [`next_message`](Self::next_message) has one.
    pub(crate) fn has_message(&self) -> bool {
        self.state
            .lock()
            .sessions
            .iter()
            .any(|entry| entry.message().is_some())
    }

    /// Takes the next message for the daemon; `give` puts it where the daemon reads and says whether that worked.
    /// Returns `None` when there is none, else what `give` said.
    pub(crate) fn next_message(&self, give: impl FnOnce(&LinkOffer) -> Result) -> Option<Result> {
        let mut state = self.state.lock();
        let (index, message) = state
            .sessions
            .iter()
            .enumerate()
            .find_map(|(index, entry)| Some((index, entry.message()?)))?;
        let given = give(&message);
        if given.is_ok() {
            match state.sessions.get_mut(index) {
                Some(entry) if entry.withdrawn => {
                    let _ = state.sessions.remove(index);
                }
                Some(entry) => entry.mark_told(message.header.kind),
                None => {}
            }
        }
        Some(given)
    }

    /// The daemon acknowledges an offer: returns the descriptor of the link. Errors as for
    /// [`weft_uapi::control::LINK_ACCEPT`].
    pub(crate) fn accept(&self, request: &LinkAccept) -> Result<u32> {
        if request.abi != CONTROL_ABI {
            return Err(eproto());
        }
        let kind = match request.kind {
            KERN_HANDSHAKE_DATA => LinkKind::Data,
            KERN_HANDSHAKE_META => LinkKind::Meta,
            _ => return Err(EINVAL),
        };
        let (session, is_complete) = self.mark_accepted(request, kind)?;
        let pending = LinkFile::new(session.clone(), kind)
            .and_then(|file| pipe::open_fd(c"[weft-link]", file));
        let pending = pending.inspect_err(|_| session.fail(DownReason::NoMemory))?;
        if is_complete {
            session.bring_up();
        }
        Ok(pending.install())
    }

    /// Notes that a link was accepted; returns its session and whether both links are accepted now.
    fn mark_accepted(&self, request: &LinkAccept, kind: LinkKind) -> Result<(Arc<Session>, bool)> {
        let mut state = self.state.lock();
        let offered = |entry: &&mut Entry| !entry.withdrawn && entry.has_offer(kind, request.offer);
        let entry = state.sessions.iter_mut().find(offered).ok_or(ENOENT)?;
        let is_second = entry.data.accepted || entry.meta.accepted;
        if is_second && entry.peer_session != request.peer_session {
            return Err(EINVAL);
        }
        let handshake = match kind {
            LinkKind::Data => &mut entry.data,
            LinkKind::Meta => &mut entry.meta,
        };
        if handshake.accepted {
            return Err(EBUSY);
        }
        handshake.accepted = true;
        handshake.told = true;
        entry.peer_session = request.peer_session;
        Ok((entry.session.clone(), is_second))
    }

    /// The daemon told which nodes it reaches. An old message that comes late is ignored.
    pub(crate) fn node_conn_state(&self, message: &NodeConnState, resource: Option<&str>) {
        let connected = NodeSet(message.connected);
        let mut state = self.state.lock();
        let Some(daemon) = state
            .daemon
            .as_mut()
            .filter(|daemon| message.epoch > daemon.epoch)
        else {
            return;
        };
        daemon.epoch = message.epoch;
        if resource.is_none() {
            daemon.connected = connected;
        }
        drop(state);
        self.listener.daemon_changed(resource, true, connected);
    }
}

impl Entry {
    fn has_offer(&self, kind: LinkKind, offer: u64) -> bool {
        match kind {
            LinkKind::Data => self.data.offer == offer,
            LinkKind::Meta => self.meta.offer == offer,
        }
    }

    fn is_told(&self) -> bool {
        self.data.told || self.meta.told
    }

    /// What the daemon has to be told next about this session.
    fn message(&self) -> Option<LinkOffer> {
        if self.withdrawn {
            Some(self.offer_message(KERN_WITHDRAWN, 0))
        } else if !self.data.told {
            Some(self.offer_message(KERN_HANDSHAKE_DATA, self.data.offer))
        } else if !self.meta.told {
            Some(self.offer_message(KERN_HANDSHAKE_META, self.meta.offer))
        } else {
            None
        }
    }

    fn mark_told(&mut self, kind: u32) {
        if kind == KERN_HANDSHAKE_DATA {
            self.data.told = true;
        } else {
            self.meta.told = true;
        }
    }

    fn offer_message(&self, kind: u32, offer: u64) -> LinkOffer {
        let SessionId(session) = self.session.id;
        LinkOffer {
            header: MessageHeader::of::<LinkOffer>(kind),
            abi: CONTROL_ABI,
            peer: self.session.peer.get().into(),
            offer,
            session,
            node: self.session.node.get().into(),
            reserved: 0,
            resource: self.session.resource,
        }
    }
}
