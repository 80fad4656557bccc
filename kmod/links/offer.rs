// SPDX-License-Identifier: GPL-2.0-only

//! What the daemon is told of sessions and what it says of nodes: the state behind the control device.
//!
//! Offers are level-triggered. A session stays listed from its offer to its end, and whoever opens the control device
//! anew is told every link that is still to be accepted.

use super::asks::Asks;
use super::daemon::Daemon;
use super::link::LinkFile;
use super::{DownReason, Session};
use crate::sys::file::{eproto, PendingFd, PollQueue, Readiness};
use crate::sys::work::OrderedQueue;
use kernel::{
    new_delayed_work, new_mutex,
    prelude::*,
    static_lock_class,
    sync::{Arc, Mutex},
    task::Pid,
    workqueue::{DelayedWork, WorkItem},
};
use weft_uapi::control::{
    Fence, LinkAccept, LinkOffer, Memory, MessageHeader, NodeConnState, KERN_HANDSHAKE_DATA,
    KERN_HANDSHAKE_META, KERN_WITHDRAWN,
};
use weft_uapi::status::Name;
use weft_uapi::units::{NodeSet, SessionId};
use weft_uapi::version::CONTROL_ABI;
use weft_uapi::wire::LinkKind;
use zerocopy::IntoBytes;

/// Who wants to know whether a daemon serves, and which nodes it reaches. Called in process context, by one thread at a
/// time: what is told last is the newest.
pub(crate) trait DaemonListener: Send + Sync {
    /// The daemon came, went, or told of nodes: of one resource, or (`None`) of all. Must not wait for the daemon.
    fn daemon_changed(&self, resource: Option<&str>, served: bool, connected: NodeSet);

    /// The daemon answered a question of a resource.
    fn daemon_answered(&self, resource: &str, answer: &Answer);
}

/// A message for the daemon.
pub(crate) enum Message {
    /// About a link.
    Offer(LinkOffer),
    /// About what a tie-breaker has to know.
    Memory(Memory),
    /// About a peer to be fenced.
    Fence(Fence),
}

/// What the daemon answers.
pub(crate) enum Answer {
    /// What a tie-breaker has to know is kept, or handed back.
    Memory(Memory),
    /// What became of a peer.
    Fence(Fence),
}

impl Message {
    /// No message is longer.
    // That of a peer to be fenced is shorter than either.
    pub(crate) const BYTES_MAX: usize = if size_of::<Memory>() > size_of::<LinkOffer>() {
        size_of::<Memory>()
    } else {
        size_of::<LinkOffer>()
    };

    /// As the daemon reads it.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Offer(offer) => offer.as_bytes(),
            Self::Memory(memory) => memory.as_bytes(),
            Self::Fence(fence) => fence.as_bytes(),
        }
    }

    /// Equal for two messages of which the later one suffices.
    pub(super) fn topic(&self) -> (u32, Name, u32) {
        match self {
            Self::Offer(offer) => (offer.header.kind, offer.resource, offer.peer),
            Self::Memory(memory) => (memory.header.kind, memory.resource, memory.volume),
            Self::Fence(fence) => (fence.header.kind, fence.resource, fence.peer),
        }
    }
}

/// The links of all resources, and the daemon that serves them.
#[pin_data]
pub(crate) struct Offers {
    listener: Arc<dyn DaemonListener>,
    /// Where readers of the control device wait.
    #[pin]
    poll: PollQueue,
    /// Held from the change of what is known of the daemon until all were told of it.
    #[pin]
    telling: Mutex<()>,
    #[pin]
    state: Mutex<State>,
    queue: OrderedQueue,
    /// Looks whether the daemon still says something; pending while there is one.
    #[pin]
    watch: DelayedWork<Offers>,
}

kernel::impl_has_delayed_work! {
    impl HasDelayedWork<Self> for Offers { self.watch }
}

struct State {
    daemon: Option<Daemon>,
    sessions: KVec<Entry>,
    asks: Asks,
    next_offer: u64,
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
            telling <- new_mutex!(()),
            state <- new_mutex!(State { daemon: None, sessions: KVec::new(), asks: Asks::new(), next_offer: 1 }),
            queue: OrderedQueue::new(c"weft_daemon")?,
            watch <- new_delayed_work!("weft_daemon_watch"),
        }? Error);
        Arc::pin_init(offers, GFP_KERNEL)
    }

    /// Tells somebody new whether a daemon serves, and which nodes it reaches; nothing else is told meanwhile.
    pub(crate) fn introduce(&self, tell: impl FnOnce(bool, NodeSet)) {
        let _in_order = self.telling.lock();
        let state = self.state.lock();
        let (served, connected) = state
            .daemon
            .as_ref()
            .map_or((false, NodeSet::EMPTY), Daemon::state);
        drop(state);
        tell(served, connected);
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

    /// Asks the daemon something. Repeated by the caller until it is answered; may be lost.
    pub(crate) fn ask(&self, question: Message) {
        // Without memory it is asked when it is repeated.
        let _ = self.state.lock().asks.put(question);
        self.poll.wake(Readiness::IN);
    }

    /// The daemon answered.
    pub(crate) fn answered(&self, resource: &str, answer: &Answer) {
        self.listener.daemon_answered(resource, answer);
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
    pub(crate) fn open(self: &Arc<Self>, pid: Pid) -> Result<(), Pid> {
        let _in_order = self.telling.lock();
        let mut state = self.state.lock();
        if let Some(daemon) = &state.daemon {
            return Err(daemon.pid);
        }
        let daemon = state.daemon.insert(Daemon::new(pid));
        self.look_in(daemon.next_look());
        drop(state);
        self.listener.daemon_changed(None, true, NodeSet::EMPTY);
        Ok(())
    }

    /// The control device was closed: ends every session with an accepted link and forgets what was told. Only then
    /// another process may open it.
    pub(crate) fn close(self: &Arc<Self>) {
        let _in_order = self.telling.lock();
        self.fail_accepted(DownReason::DaemonGone);
        self.listener.daemon_changed(None, false, NodeSet::EMPTY);
        let mut state = self.state.lock();
        state.daemon = None;
        state.asks.clear();
        self.queue.cancel(self.as_arc_borrow());
        state.sessions.retain(|entry| !entry.withdrawn);
        for entry in state.sessions.iter_mut() {
            entry.data.told = false;
            entry.meta.told = false;
        }
    }

    fn look_in(self: &Arc<Self>, nanoseconds: u64) {
        self.queue.run_in(self.as_arc_borrow(), nanoseconds);
    }

    /// Ends the sessions whose links the daemon has accepted.
    fn fail_accepted(&self, reason: DownReason) {
        let mut last = 0;
        while let Some((offer, session)) = self.next_accepted(last) {
            session.fail(reason);
            last = offer;
        }
    }

    /// The first session with an accepted link whose offers are newer than `offer`.
    fn next_accepted(&self, offer: u64) -> Option<(u64, Arc<Session>)> {
        let state = self.state.lock();
        let accepted = |entry: &&Entry| entry.data.offer > offer && entry.is_accepted();
        let entry = state.sessions.iter().find(accepted)?;
        Some((entry.data.offer, entry.session.clone()))
    }

    /// Whether [`take_message`](Self::take_message) has one.
    pub(crate) fn has_message(&self) -> bool {
        let state = self.state.lock();
        state.asks.any() || state.sessions.iter().any(|entry| entry.message().is_some())
    }

    /// Takes the next message for the daemon, which counts as told.
    pub(crate) fn take_message(&self) -> Option<Message> {
        let mut state = self.state.lock();
        if let Some(question) = state.asks.take() {
            return Some(question);
        }
        let (index, message) = state
            .sessions
            .iter()
            .enumerate()
            .find_map(|(index, entry)| Some((index, entry.message()?)))?;
        if message.header.kind == KERN_WITHDRAWN {
            let entry = state.sessions.remove(index);
            drop(state);
            // Perhaps the last reference to its session: not under the lock.
            drop(entry);
        } else if let Some(entry) = state.sessions.get_mut(index) {
            entry.mark_told(message.header.kind);
        }
        Some(Message::Offer(message))
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
            .and_then(|file| PendingFd::new(c"[weft-link]", file));
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
        let is_second = entry.is_accepted();
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

    /// The daemon told which nodes it reaches. An old message that comes late is only a sign of life.
    pub(crate) fn node_conn_state(&self, message: &NodeConnState, resource: Option<&str>) {
        let _in_order = self.telling.lock();
        let mut state = self.state.lock();
        let Some(daemon) = state.daemon.as_mut() else {
            return;
        };
        let is_new = daemon.take(message, resource.is_none());
        let did_wake = daemon.did_wake();
        let (served, connected) = daemon.state();
        drop(state);
        if did_wake {
            self.listener.daemon_changed(None, served, connected);
        }
        if is_new {
            let connected = NodeSet(message.connected);
            self.listener.daemon_changed(resource, true, connected);
        }
    }
}

impl WorkItem for Offers {
    type Pointer = Arc<Self>;

    /// A daemon that hangs must not keep what waits for its sessions: see [`DAEMON_SILENCE_MS_MAX`].
    ///
    /// [`DAEMON_SILENCE_MS_MAX`]: weft_uapi::control::DAEMON_SILENCE_MS_MAX
    fn run(this: Arc<Self>) {
        let _in_order = this.telling.lock();
        let mut state = this.state.lock();
        let Some(daemon) = state.daemon.as_mut() else {
            return;
        };
        let (did_fall_silent, pid) = (daemon.did_fall_silent(), daemon.pid);
        this.look_in(daemon.next_look());
        drop(state);
        if did_fall_silent {
            pr_warn!("the daemon (process {pid}) hangs: its sessions are ended\n");
            this.listener.daemon_changed(None, false, NodeSet::EMPTY);
            this.fail_accepted(DownReason::DaemonSilent);
        }
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

    fn is_accepted(&self) -> bool {
        self.data.accepted || self.meta.accepted
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
