// SPDX-License-Identifier: GPL-2.0-only

//! What the application of a client has been shown, and who may serve it next.
//!
//! The application goes on when its server dies, so nobody may take the server's place who lacks something that was
//! answered. A server tells its clients each record that is in force and who holds it ([`PacketKind::Exposed`]), on the
//! link that its answers travel on and before the first answer that depends on it. INVARIANT: when a write is answered,
//! every holder that the client was told of has it, in its cache at least. So the next server is
//! * a holder whose disk was never let go since, nor made a sync target: it has all of it, or
//! * any disk of that line if nothing was answered that no later flush covers: it lost nothing in a power cut.
//!
//! A higher term in the line is somebody else's promotion: then the application has missed writes, and has to end.

use super::context::{ensure, Context, Facts, Fault};
use super::replica::Replica;
use super::said::Said;
use super::volume::Volume;
use crate::ancestry::Ancestry;
use crate::host::{Host, Output};
use core::cmp::Ordering;
use weft_uapi::limits::NODES_MAX;
use weft_uapi::state::{DiskState, Role};
use weft_uapi::units::{GenerationId, NodeId, NodeSet, Term};
use weft_uapi::wire::{Header, InForceBody, PacketKind};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// What a volume's application has been shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exposure {
    /// The newest record in force that it knows; none: it has been shown nothing.
    generation: GenerationId,
    term: Term,
    /// Who has everything that was answered.
    holders: NodeSet,
    /// The attach of each holder's disk that has it.
    attach_ids: [u64; NODES_MAX],
    /// Changes that were answered, and those of them that a flush covers.
    pub(super) answered: u64,
    pub(super) flushed: u64,
    /// The peer that was asked last has told what it would show.
    is_told: bool,
    /// Size of the device in sectors and its logical block size in bytes, as the server has it; 0: not served yet.
    pub(super) sectors: u64,
    pub(super) block_bytes: u32,
}

impl Exposure {
    pub(super) const NONE: Self = Self {
        generation: GenerationId::NONE,
        term: Term(0),
        holders: NodeSet::EMPTY,
        attach_ids: [0; NODES_MAX],
        answered: 0,
        flushed: 0,
        is_told: false,
        sectors: 0,
        block_bytes: 0,
    };

    /// What a server told, or would tell, of a record in force and its term.
    pub(super) fn of(body: &InForceBody, term: Term) -> Self {
        Self {
            generation: GenerationId(body.generation.get()),
            term,
            holders: NodeSet(body.holders.get()),
            attach_ids: body.disks.map(|disk| disk.attach_id.get()),
            ..Self::NONE
        }
    }

    /// Whether a node has everything.
    pub(super) fn has_holder(&self, node: NodeId) -> bool {
        self.holders.contains(node)
    }

    /// These nodes may lack something.
    pub(super) fn forget_holders(&mut self, nodes: NodeSet) {
        self.holders = NodeSet(self.holders.0 & !nodes.0);
    }

    /// Whether nothing of what was shown is missing on the disk that a peer described.
    fn is_kept_by(&self, peer: NodeId, said: &Said) -> bool {
        if self.generation == GenerationId::NONE {
            return true;
        }
        let line = &said.side.ancestry;
        line.current().term == self.term
            && self.is_in(peer, line, said.side.attach_id, said.joined)
            && self.sectors <= said.sectors
            && self.block_bytes == said.block_bytes
    }

    /// Whether a disk with this line has all that was answered: nothing that a flush does not cover has to be on it, or it
    /// is a holder's and holds what it held. One that was complete again by a later record than was shown may have been
    /// given up meanwhile for one that lacks something.
    fn is_in(&self, node: NodeId, line: &Ancestry, attach_id: u64, joined: GenerationId) -> bool {
        let is_same_attach =
            self.holders.contains(node) && self.attach_ids.get(node.index()) == Some(&attach_id);
        let is_same_disk = is_same_attach && !line.is_newer(joined, self.generation);
        line.contains(self.generation) && (is_same_disk || self.flushed == self.answered)
    }
}

fn has_good_data(state: DiskState) -> bool {
    matches!(state, DiskState::UpToDate | DiskState::Consistent)
}

impl<H: Host> Volume<H> {
    /// What a peer says of its disk, if nothing newer is on its way.
    fn told_by(&self, peer: NodeId) -> Option<&Said> {
        let replica = self.replica(peer)?;
        let is_fresh = replica.session.is_some() && !replica.round.is_open();
        let is_good = is_fresh && has_good_data(replica.peer_disk);
        replica
            .round
            .peer
            .as_ref()
            .filter(|said| is_good && said.sectors > 0 && !said.has_left)
    }

    /// Whether a peer has all that the application was shown, and follows nobody else. One that this node is about to part
    /// from has nothing to offer.
    pub(super) fn may_serve(&self, peer: NodeId) -> bool {
        let is_parting = |replica: &Replica<H>| replica.verdict.is_some();
        let stays = !self.replica(peer).is_some_and(is_parting);
        self.told_by(peer).is_some_and(|said| {
            let is_free = said.stance.leader.is_none_or(|leader| leader == peer);
            stays && is_free && self.exposure.is_kept_by(peer, said)
        })
    }

    /// Whether this node's own disk has all that its application was shown.
    pub(super) fn keeps_exposure(&self, node: NodeId) -> bool {
        let shown = &self.exposure;
        let Some(disk) = self.disk.as_ref() else {
            return false;
        };
        let superblock = &disk.superblock;
        shown.generation == GenerationId::NONE
            || (superblock.generation.term == shown.term
                && disk.sectors() >= shown.sectors
                && shown.is_in(node, &disk.ancestry(), superblock.attach_id, disk.joined))
    }

    /// Whether a peer's data go on from what the application was shown, by somebody else's promotion.
    pub(super) fn is_left_behind_by(&self, peer: NodeId) -> bool {
        let shown = &self.exposure;
        self.told_by(peer).is_some_and(|said| {
            let line = &said.side.ancestry;
            shown.generation != GenerationId::NONE
                && line.contains(shown.generation)
                && line.current().term > shown.term
        })
    }

    /// Whether a peer leads beside the server of this node's application, in a line that the application was not shown: there
    /// are two primaries. Where others went on for certain it is the application that ends ([`Self::is_left_behind_by`]).
    pub(super) fn is_rival(&self, facts: &Facts, peer: NodeId, said: &Said) -> bool {
        let shown = &self.exposure;
        let leads = said.role == Role::Primary && !said.is_stalled && self.server != Some(peer);
        let line = &said.side.ancestry;
        let goes_on = line.contains(shown.generation)
            && match line.current().term.cmp(&shown.term) {
                Ordering::Less => false,
                Ordering::Equal => true,
                // Without majority the server may be going on, too.
                Ordering::Greater => facts.quorum.is_on() || facts.server.is_none(),
            };
        leads && shown.generation != GenerationId::NONE && !goes_on
    }

    /// Whether nobody has all that the application was shown any more: every holder has lost its cache, its disk, or has
    /// given its data up.
    pub(super) fn is_bereft(&self, node: NodeId) -> bool {
        let shown = &self.exposure;
        let mut holders = shown.holders.iter();
        shown.generation != GenerationId::NONE && holders.all(|it| self.has_lost(node, it))
    }

    /// Who may have all that the application was shown; `None`: anybody, since a flush covers it.
    pub(super) fn keepers(&self, node: NodeId) -> Option<NodeSet> {
        let shown = &self.exposure;
        let is_bound = shown.generation != GenerationId::NONE && shown.flushed != shown.answered;
        is_bound.then(|| {
            let holders = shown.holders.iter();
            let keepers = holders.filter(|&holder| !self.has_lost(node, holder));
            keepers.fold(NodeSet::EMPTY, NodeSet::with)
        })
    }

    /// Whether a holder has lost its cache, its disk, or has given its data up, as far as this node knows.
    fn has_lost(&self, node: NodeId, holder: NodeId) -> bool {
        if holder == node {
            return !self.keeps_exposure(node);
        }
        let said = self
            .replica(holder)
            .filter(|replica| replica.session.is_some() && !replica.round.is_open())
            .and_then(|replica| replica.round.peer);
        said.is_some_and(|said| {
            let side = &said.side;
            let is_in = self
                .exposure
                .is_in(holder, &side.ancestry, side.attach_id, said.joined);
            said.disk != DiskState::Diskless && !is_in
        })
    }

    /// Whether the peer that was asked to serve has said what it would show.
    pub(super) fn is_shown_by(&self, server: NodeId) -> bool {
        let said = self.replica(server).and_then(|replica| replica.round.peer);
        self.exposure.is_told && said.is_some_and(|said| said.sectors > 0)
    }

    /// The application has been shown nothing yet.
    pub(super) fn begin_exposure(&mut self) {
        self.exposure = Exposure::NONE;
        self.server = None;
    }

    /// This peer carries out the requests from now on.
    pub(super) fn begin_service<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        server: NodeId,
    ) {
        // Whatever is being negotiated now, the size stays.
        if let Some(said) = self.replica(server).and_then(|replica| replica.round.peer) {
            self.exposure.sectors = said.sectors;
            self.exposure.block_bytes = said.block_bytes;
        }
        self.server = Some(server);
        self.recheck = true;
        self.tell_capacity(cx);
    }

    /// The server says how large the device is now.
    pub(super) fn grow_exposure<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        sectors: u64,
    ) {
        let shown = self.exposure.sectors;
        if self.server == Some(peer) && shown > 0 && sectors > shown {
            self.exposure.sectors = sectors;
            self.tell_capacity(cx);
        }
    }

    /// The application is gone, or has to go.
    pub(super) fn forget_exposure<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        self.begin_exposure();
        self.recheck = true;
        self.tell_capacity(cx);
    }

    /// The peer that serves, or is asked to, tells what is in force.
    #[inline(never)]
    pub(super) fn on_exposed(
        &mut self,
        peer: NodeId,
        header: &Header,
        body: &[u8],
    ) -> Result<(), Fault> {
        let body = InForceBody::read_from_bytes(body)
            .map_err(|_| Fault("the peer sent a malformed notice of what is in force"))?;
        if self.server != Some(peer) {
            // It was for an earlier wish.
            return Ok(());
        }
        let holders = NodeSet(body.holders.get());
        ensure(
            holders.contains(peer) && body.generation.get() != 0,
            "the peer serves without holding anything",
        )?;
        let before = self.exposure;
        self.exposure = Exposure {
            answered: before.answered,
            flushed: before.flushed,
            is_told: true,
            sectors: before.sectors,
            block_bytes: before.block_bytes,
            ..Exposure::of(&body, header.term)
        };
        Ok(())
    }

    /// The next server has to tell what it shows.
    pub(super) fn expect_exposure(&mut self, server: NodeId) {
        self.server = Some(server);
        self.exposure.is_told = false;
    }

    /// Tells the clients which record is in force and who has everything.
    pub(super) fn expose<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        if cx.facts.clients.is_empty() || self.change.is_some() {
            return;
        }
        let Some(body) = self.in_force(cx.facts.node) else {
            return;
        };
        let mut header = Header::new(PacketKind::Exposed, Some(self.id));
        header.term = self.term();
        for line in cx.facts.clients.iter().filter_map(|peer| self.line(peer)) {
            cx.send(line, header, body.as_bytes());
        }
    }

    /// The record that this leader's data are of, and who has all of them; `None`: it has no disk.
    pub(super) fn in_force(&self, own: NodeId) -> Option<InForceBody> {
        let disk = self.disk.as_ref()?;
        let holders = self
            .whole()
            .intersection(disk.superblock.generation.members);
        let mut body = InForceBody::new_zeroed();
        body.generation = disk.superblock.generation.id.0.into();
        body.holders = holders.with(own).0.into();
        for (node, place) in NodeId::all().zip(&mut body.disks) {
            if node == own {
                place.incarnation = disk.superblock.incarnation.0.into();
                place.attach_id = disk.superblock.attach_id.into();
            } else if let Some(said) = self
                .replica(node)
                .filter(|_| holders.contains(node))
                .and_then(|replica| replica.round.peer)
            {
                place.incarnation = said.side.incarnation.0.into();
                place.attach_id = said.side.attach_id.into();
            }
        }
        Some(body)
    }
}
