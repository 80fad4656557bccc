// SPDX-License-Identifier: GPL-2.0-only

//! Volumes and peers come and go.

use super::context::{Context, Fault};
use super::place::Place;
use super::replica::Replica;
use super::session::Peer;
use super::volume::Volume;
use super::Engine;
use crate::effect::Object;
use crate::host::{Host, NoMemory, Output, Time};
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{ConnectionState, DiskState, Role};
use weft_uapi::units::{Minor, NodeId, NodeSet, VolumeId};
use weft_uapi::wire::{FullStateBody, Header, PacketKind, StateBody};
use zerocopy::{FromZeros, IntoBytes};

impl<H: Host> Engine<H> {
    pub(super) fn volume(&self, id: VolumeId) -> Option<&Volume<H>> {
        self.volumes.get(usize::from(id.0))?.as_ref()
    }

    pub(super) fn volume_mut(&mut self, id: VolumeId) -> Option<&mut Volume<H>> {
        self.volumes.get_mut(usize::from(id.0))?.as_mut()
    }

    pub(super) fn each_volume(&self) -> impl Iterator<Item = &Volume<H>> {
        self.volumes
            .iter()
            .take(self.volumes_end)
            .filter_map(Place::as_ref)
    }

    pub(super) fn each_volume_mut(&mut self) -> impl Iterator<Item = &mut Volume<H>> {
        self.volumes
            .iter_mut()
            .take(self.volumes_end)
            .filter_map(Place::as_mut)
    }

    /// Peers with a session.
    pub(super) fn connected(&self) -> NodeSet {
        let connected = self.peers().filter(|&id| self.line_to(id).is_some());
        connected.fold(NodeSet::EMPTY, NodeSet::with)
    }

    /// An internal rule of the resource was broken: no I/O any more.
    pub(super) fn break_down<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, sentence: &str) {
        for volume in self.each_volume_mut() {
            volume.break_down(cx, sentence);
        }
    }

    #[inline(never)]
    pub(super) fn on_new_device<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: VolumeId,
        minor: Minor,
    ) -> Result<(), Refusal> {
        if self.volume(id).is_some() {
            return Err(Refusal::VolumeExists);
        }
        if self.role == Role::Primary || self.transition.is_some() || self.client.is_some() {
            return Err(Refusal::IsPrimary);
        }
        let memory = |_: NoMemory| Refusal::NoMemory;
        let mut volume = Volume::new(id, minor, &self.config).map_err(memory)?;
        for peer in self.peers() {
            volume.add_peer(peer).map_err(memory)?;
        }
        let place = self
            .volumes
            .get_mut(usize::from(id.0))
            .ok_or(Refusal::BadArgument)?;
        place.put(volume).map_err(memory)?;
        self.volumes_end = self.volumes_end.max(usize::from(id.0).saturating_add(1));
        for peer in NodeId::all() {
            self.note_pauses(cx, peer);
        }
        // A session's handshake covers all volumes, so it begins anew.
        for peer in self.connected().iter() {
            self.end_session(cx, peer, "a volume was added", false);
        }
        cx.notify(Object::Volume(id));
        Ok(())
    }

    #[inline(never)]
    pub(super) fn on_del_device<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: VolumeId,
    ) -> Result<(), Refusal> {
        let volume = self.volume(id).ok_or(Refusal::NoSuchVolume)?;
        if volume.open_count > 0 || volume.door.is_some() {
            return Err(Refusal::DeviceOpen);
        }
        if volume.disk.is_some() {
            return Err(Refusal::DiskAttached);
        }
        if volume.requests.used() > 0 || volume.ops.used() > 0 {
            return Err(Refusal::Busy);
        }
        if let Some(place) = self.volumes.get_mut(usize::from(id.0)) {
            *place = Place::default();
        }
        cx.notify(Object::Volume(id));
        Ok(())
    }

    #[inline(never)]
    pub(super) fn on_new_peer<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
    ) -> Result<(), Refusal> {
        if self.peer(id).is_some() || id == self.config.node {
            return Err(Refusal::PeerExists);
        }
        for volume in self.each_volume_mut() {
            volume.add_peer(id).map_err(|_| Refusal::NoMemory)?;
        }
        if let Some(place) = self.peers.get_mut(id.index()) {
            *place = Some(Peer::new());
            self.known = self.known.with(id);
        }
        self.note_pauses(cx, id);
        cx.notify(Object::Peer(id));
        Ok(())
    }

    #[inline(never)]
    pub(super) fn on_del_peer<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
    ) -> Result<(), Refusal> {
        let peer = self.peer(id).ok_or(Refusal::NoSuchPeer)?;
        if peer.connection() != ConnectionState::StandAlone {
            return Err(Refusal::PeerConnected);
        }
        let is_busy = self.each_volume().any(|volume| {
            volume
                .replica(id)
                .is_some_and(|replica| replica.is_flush_running)
                || volume.has_ops_of(id)
        });
        if is_busy {
            return Err(Refusal::Busy);
        }
        for volume in self.each_volume_mut() {
            volume.remove_peer(id);
        }
        if let Some(place) = self.peers.get_mut(id.index()) {
            *place = None;
            self.known = self.known.without(id);
        }
        cx.notify(Object::Peer(id));
        Ok(())
    }

    /// A packet for a volume that this node does not have: a state is answered with "no disk", the rest is ignored.
    #[inline(never)]
    pub(super) fn on_foreign_packet<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        volume: VolumeId,
        header: &Header,
        body: &[u8],
    ) -> Result<(), Fault> {
        if header.kind != PacketKind::State {
            return Ok(());
        }
        let said = FullStateBody::parse(body)
            .ok_or(Fault("the peer sent a malformed state"))?
            .state;
        let mut answer = StateBody::new_zeroed();
        answer.round = said.round;
        answer.role = (self.role as u16).into();
        answer.disk_state = (DiskState::Diskless as u16).into();
        answer.generation = weft_uapi::ondisk::Generation::default().into();
        if let Some(line) = self.line_to(peer) {
            cx.send(
                line,
                Header::new(PacketKind::State, Some(volume)),
                answer.as_bytes(),
            );
        }
        Ok(())
    }

    /// When [`crate::event::Event::Timer`] is wanted; `None`: not at all for now.
    pub fn deadline(&self) -> Option<Time> {
        let volumes = self.each_volume().filter_map(Volume::deadline);
        let peers = self.each_peer().filter_map(Peer::deadline);
        let role = self.role_deadline();
        volumes
            .chain(peers)
            .chain(role)
            .chain(self.client_deadline())
            .chain(self.speed_deadline())
            .chain(self.fencing_deadline())
            .chain(self.leave_deadline())
            .chain(self.opening_deadline())
            .min()
    }

    /// Whether one more [`crate::event::Event::Request`] can be taken, of whatever volume.
    pub fn has_room(&self) -> bool {
        let own = |volume: &Volume<H>| {
            volume
                .requests
                .used()
                .saturating_sub(volume.theirs as usize)
        };
        self.each_volume()
            .all(|volume| own(volume) < self.config.requests_max)
    }

    /// Whether one more packet can be taken from this peer's *data* link. Its meta link is never held back: what waits
    /// here may wait for an acknowledgement that comes over it. Writes of a peer that may not begin yet leave room for
    /// what others say: they may wait for that.
    pub fn has_peer_room(&self, peer: NodeId) -> bool {
        self.each_volume().all(|volume| volume.room_for(peer) > 0)
    }

    /// Whether the resource may go: it has neither volumes nor peers.
    pub fn may_remove(&self) -> Result<(), Refusal> {
        if self.volumes().next().is_some() || self.peers().next().is_some() {
            return Err(Refusal::ResourceBusy);
        }
        Ok(())
    }

    /// The volumes.
    pub fn volumes(&self) -> impl Iterator<Item = VolumeId> + '_ {
        self.each_volume().map(|volume| volume.id)
    }

    /// The peers.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> {
        self.known.iter()
    }
}

impl<H: Host> Volume<H> {
    /// Makes a peer known. Context: may sleep.
    fn add_peer(&mut self, peer: NodeId) -> Result<(), NoMemory> {
        let replica = Replica::new()?;
        if let Some(place) = self.replicas.get_mut(peer.index()) {
            *place = Some(replica);
            self.known = self.known.with(peer);
        }
        if let Some(disk) = self.disk.as_mut() {
            disk.ensure_slot(peer);
        }
        self.recheck = true;
        Ok(())
    }

    fn remove_peer(&mut self, peer: NodeId) {
        if let Some(place) = self.replicas.get_mut(peer.index()) {
            *place = None;
            self.known = self.known.without(peer);
        }
    }

    /// Whether a packet belongs to a resync that this side has turned away from: the peer learns it in the round that is
    /// open.
    fn is_stale(&self, peer: NodeId, kind: PacketKind) -> bool {
        let is_resync = matches!(
            kind,
            PacketKind::Bitmap
                | PacketKind::BitmapEnd
                | PacketKind::ResyncRequest
                | PacketKind::ResyncDigest
                | PacketKind::ResyncData
                | PacketKind::ResyncEqual
                | PacketKind::ResyncDone
        );
        let has_turned = |replica: &Replica<H>| {
            replica.round.is_open() && replica.source.is_none() && replica.target.is_none()
        };
        is_resync && self.replica(peer).is_some_and(has_turned)
    }

    fn has_ops_of(&self, peer: NodeId) -> bool {
        self.ops.iter().any(|(_, op)| op.peer == peer)
    }

    /// Takes a packet for this volume.
    #[inline(never)]
    pub(super) fn on_packet<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
        body: &[u8],
        data: Option<H::Buffer>,
    ) -> Result<(), Fault> {
        if self.line(peer).is_none() {
            return Err(Fault("a packet came before its handshake"));
        }
        if self.witness.is_some() && header.kind == PacketKind::Generation {
            return self.witness_record(peer, header, body);
        }
        match header.kind {
            PacketKind::Exposed => return self.on_exposed(peer, header, body),
            PacketKind::ReadReply | PacketKind::ClientDone => {
                return self.on_carried(cx, peer, header, data);
            }
            _ => {}
        }
        let is_disk_wanted = !matches!(header.kind, PacketKind::State);
        if is_disk_wanted && !self.has_running_disk() {
            // The disk went away; the peer learns it from the state that is on its way.
            return Ok(());
        }
        if self.is_stale(peer, header.kind) {
            return Ok(());
        }
        match header.kind {
            PacketKind::State => self.on_state(cx, peer, header, body),
            PacketKind::Write | PacketKind::Discard | PacketKind::WriteZeroes => {
                self.on_peer_write(cx, peer, header, data)
            }
            PacketKind::ReadRequest
            | PacketKind::ClientWrite
            | PacketKind::ClientDiscard
            | PacketKind::ClientWriteZeroes
            | PacketKind::ClientFlush => self.on_client_request(cx, peer, header, data),
            PacketKind::HealRequest => self.on_heal_request(cx, peer, header),
            PacketKind::HealData => self.on_heal_data(cx, peer, header, data),
            PacketKind::Flush => self.on_flush(peer, header.seq),
            PacketKind::Trim => self.on_trim(cx, peer, header, body),
            PacketKind::ResyncRequest => self.on_resync_request(cx, peer, header, None),
            PacketKind::ResyncDigest => self.on_resync_digest(cx, peer, header, body),
            PacketKind::ResyncEqual => self.on_resync_equal(cx, peer, header),
            PacketKind::ResyncData => self.on_resync_data(cx, peer, header, data),
            PacketKind::ResyncDone => self.on_resync_done(peer, header.seq),
            PacketKind::Bitmap => self.on_bitmap(peer, body),
            PacketKind::BitmapEnd => self.on_bitmap_end(peer, header),
            PacketKind::Generation => self.on_generation(cx, peer, header, body),
            PacketKind::InForce => self.on_in_force(cx, peer, header, body),
            PacketKind::GenerationDurable => self.on_generation_durable(peer, header),
            PacketKind::VerifyOrder
            | PacketKind::VerifyRefused
            | PacketKind::VerifyBegin
            | PacketKind::VerifyDigest
            | PacketKind::VerifyResult
            | PacketKind::VerifyEnd => self.on_verify_packet(cx, peer, header, body),
            PacketKind::ResizeAsk | PacketKind::ResizeRoom | PacketKind::ResizeTo => {
                self.on_resize_packet(cx, peer, header)
            }
            PacketKind::Outrun => self.on_outrun(cx, peer, header),
            PacketKind::Received => self.on_received(cx, peer, header),
            PacketKind::Written => self.on_written(cx, peer, header),
            PacketKind::Stable => self.on_stable(cx, peer, header, body),
            _ => Err(Fault("the peer sent a packet that does not belong here")),
        }
    }
}
