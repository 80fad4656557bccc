// SPDX-License-Identifier: GPL-2.0-only

//! What the daemons and the network do: they turn two offers into a session, carry packets, and fail.

use crate::canary::Canary;
use crate::host::Content;
use crate::link::{index_of, Cable, Connection, End, Packet};
use crate::node::node_id;
use crate::world::{note, Happening, World, MS, SECOND, US};
use weft_engine::event::Event;
use weft_uapi::limits::SECTOR_BYTES;
use weft_uapi::units::SessionId;
use weft_uapi::wire::{Header, InForceBody, LinkKind, PacketKind, FLAG_CRC};
use zerocopy::FromBytes;

/// How long it takes at most until a side notices that nothing comes any more.
const DEAD_AFTER: u64 = 5 * SECOND;

const LINKS: [LinkKind; 2] = [LinkKind::Data, LinkKind::Meta];

impl World {
    /// The daemons of two nodes try to meet in a moment.
    pub(crate) fn meet_soon(&mut self, nodes: [usize; 2]) {
        let delay = self.random.duration(100 * US..300 * MS);
        self.after(delay, Happening::Meet { nodes });
    }

    pub(crate) fn on_meet(&mut self, nodes: [usize; 2]) {
        let [a, b] = nodes;
        let can = |from: usize, to: usize| {
            let node = &self.nodes[from];
            node.serves.then(|| node.offers.get(&to).copied()).flatten()
        };
        let (Some(offer_a), Some(offer_b)) = (can(a, b), can(b, a)) else {
            return;
        };
        if !self.cables.between(a, b).is_whole() {
            return;
        }
        self.nodes[a].offers.remove(&b);
        self.nodes[b].offers.remove(&a);
        let end = |node: usize, peer: usize, session: SessionId| End {
            node,
            life: self.nodes[node].life,
            peer,
            session,
            is_up: false,
            is_closed: false,
            is_dying: false,
        };
        self.tally.sessions += 1;
        let connection = self.connections.len();
        self.live.insert(connection);
        self.connections
            .push(Connection::new([end(a, b, offer_a), end(b, a, offer_b)]));
        note!(self, "connection {connection} of n{a} and n{b} is there");
        for side in 0..2 {
            let end = &self.connections[connection].ends[side];
            let session = (end.peer, end.session);
            self.nodes[end.node]
                .sessions
                .insert(session, (connection, side));
            let delay = self.random.duration(10 * US..50 * MS);
            self.after(delay, Happening::Up { connection, side });
        }
    }

    pub(crate) fn on_up(&mut self, connection: usize, side: usize) {
        let end = &mut self.connections[connection].ends[side];
        if end.is_closed || self.nodes[end.node].life != end.life {
            return;
        }
        end.is_up = true;
        let (node, peer, session) = (end.node, end.peer, end.session);
        note!(self, "n{node} session {session} with n{peer} is up");
        let peer = node_id(peer);
        self.feed(node, Event::SessionUp { peer, session });
        for link in 0..2 {
            self.poll(connection, 1 - side, link, 0);
        }
    }

    #[allow(clippy::too_many_arguments)] // the fields of one effect
    pub(crate) fn send(
        &mut self,
        node: usize,
        (peer, session): (usize, SessionId),
        link: LinkKind,
        mut header: Header,
        mut body: Vec<u8>,
        data: Option<Content>,
    ) {
        self.forge(&header, &mut body);
        let data = data.map(|content| self.forge_data(node, &header, content));
        header.payload_len = match &data {
            Some(content) => content.len() as u32 * SECTOR_BYTES,
            None => body.len() as u32,
        };
        if data.is_some() {
            header.flags |= FLAG_CRC;
        }
        if Header::parse(&header.encode(), link) != Ok(header) {
            return self.fail(
                "contract",
                format!("n{node}: sends what cannot be parsed: {header:?}"),
            );
        }
        let Some(&(index, side)) = self.nodes[node].sessions.get(&(peer, session)) else {
            return;
        };
        let is_lost = match self.plan.canary {
            Some(Canary::DropBitmapPages) => header.kind == PacketKind::Bitmap,
            Some(Canary::LoseAcks) => header.kind == PacketKind::Written && self.random.percent(10),
            _ => false,
        };
        if is_lost {
            return;
        }
        note!(
            self,
            "n{node} sends n{peer} {:?} seq {} sector {} bytes {} arg {:x}",
            header.kind,
            header.seq,
            header.sector,
            header.bytes,
            header.arg
        );
        let slow = self.cables.between(node, peer).slow;
        let delay = slow
            + if self.random.percent(2) {
                self.random.duration(MS..300 * MS)
            } else {
                self.random.duration(10 * US..MS)
            };
        let swap = self.plan.canary == Some(Canary::ReorderSends) && self.random.percent(30);
        let now = self.now;
        let channel = &mut self.connections[index].channels[side][index_of(link)];
        if channel.is_broken {
            return;
        }
        let due = channel.last_due.max(now + delay);
        channel.last_due = due;
        channel.queue.push_back(Packet {
            header,
            body,
            data,
            due,
        });
        let len = channel.queue.len();
        if swap
            && len >= 2
            && channel
                .queue
                .range(len - 2..)
                .all(|packet| packet.data.is_some())
        {
            channel.queue.swap(len - 1, len - 2);
        }
        self.poll(index, side, index_of(link), due - now);
    }

    /// What a canary makes of data that are to be sent.
    fn forge_data(&self, node: usize, header: &Header, content: Content) -> Content {
        match (self.plan.canary, header.kind) {
            (Some(Canary::WrongBlock), PacketKind::HealData) => {
                let disk = &self.nodes[node].disk;
                disk.read(header.sector.0 / 2, content.len() as u64)
            }
            _ => content,
        }
    }

    /// What a canary makes of a packet that is to be sent.
    fn forge(&self, header: &Header, body: &mut [u8]) {
        if (self.plan.canary, header.kind) == (Some(Canary::ClaimHolders), PacketKind::InForce) {
            if let Ok(body) = InForceBody::mut_from_bytes(body) {
                body.holders = ((1 << self.nodes.len()) - 1).into();
            }
        }
    }

    /// Looks at a channel after `delay`, unless somebody does so already.
    fn poll(&mut self, connection: usize, side: usize, link: usize, delay: u64) {
        let channel = &mut self.connections[connection].channels[side][link];
        if !channel.is_polled {
            channel.is_polled = true;
            self.after(
                delay,
                Happening::Arrive {
                    connection,
                    side,
                    link,
                },
            );
        }
    }

    pub(crate) fn on_arrive(&mut self, connection: usize, side: usize, link: usize) {
        let now = self.now;
        let this = &mut self.connections[connection];
        let receiver = &this.ends[1 - side];
        let (node, life, session) = (receiver.node, receiver.life, receiver.session);
        let is_open = receiver.is_up && !receiver.is_closed;
        let channel = &mut this.channels[side][link];
        channel.is_polled = false;
        if receiver.is_closed {
            return channel.queue.clear();
        }
        if !is_open || channel.is_stalled || self.nodes[node].life != life {
            return;
        }
        let Some(first) = channel.queue.front() else {
            if channel.is_finished {
                self.die(connection, 1 - side, "the peer closed the connection", 0);
            }
            return;
        };
        if first.due > now {
            let delay = first.due - now;
            return self.poll(connection, side, link, delay);
        }
        let peer = node_id(receiver.peer);
        if !self.nodes[node]
            .engine
            .as_ref()
            .is_some_and(|engine| engine.has_peer_room(peer))
        {
            return self.poll(connection, side, link, 50 * US);
        }
        let Some(packet) = channel.queue.pop_front() else {
            return;
        };
        note!(
            self,
            "n{node} receives from n{peer} {:?} seq {}",
            packet.header.kind,
            packet.header.seq
        );
        if let (PacketKind::ResyncData, Some(content)) = (packet.header.kind, &packet.data) {
            self.turn_to(packet.header.volume.unwrap_or_default());
            self.remember_resync(node, content);
        }
        self.feed(
            node,
            Event::Packet {
                peer,
                session,
                link: LINKS[link],
                header: packet.header,
                body: &packet.body,
                data: packet.data,
            },
        );
        self.poll(connection, side, link, 0);
    }

    /// A side learns after `delay` that its session is over.
    fn die(&mut self, connection: usize, side: usize, reason: &'static str, delay: u64) {
        let end = &mut self.connections[connection].ends[side];
        if !end.is_closed && !end.is_dying {
            end.is_dying = true;
            self.after(
                delay,
                Happening::Down {
                    connection,
                    side,
                    reason,
                },
            );
        }
    }

    pub(crate) fn on_down(&mut self, connection: usize, side: usize, reason: &'static str) {
        let end = &self.connections[connection].ends[side];
        if end.is_closed {
            return;
        }
        let (node, life, peer, session) = (end.node, end.life, end.peer, end.session);
        self.close_end(connection, side);
        if self.nodes[node].life == life {
            note!(
                self,
                "n{node} session {session} with n{peer} is down: {reason}"
            );
            let peer = node_id(peer);
            self.feed(
                node,
                Event::SessionDown {
                    peer,
                    session,
                    reason,
                },
            );
        }
    }

    pub(crate) fn end_session(&mut self, node: usize, peer: usize, session: SessionId) {
        note!(self, "n{node} ends session {session} with n{peer}");
        if self.nodes[node].offers.get(&peer) == Some(&session) {
            self.nodes[node].offers.remove(&peer);
        }
        if let Some(&(index, side)) = self.nodes[node].sessions.get(&(peer, session)) {
            self.close_end(index, side);
        }
    }

    /// This side is gone. What it sent may still arrive in part, and the other side learns of it sooner or later.
    fn close_end(&mut self, connection: usize, side: usize) {
        let end = &mut self.connections[connection].ends[side];
        if std::mem::replace(&mut end.is_closed, true) {
            return;
        }
        let (node, session) = (end.node, (end.peer, end.session));
        self.nodes[node].sessions.remove(&session);
        self.on_each_volume(|world| {
            let late = world.nodes[node].late.remove(&session);
            world.give_up_writes(&late.unwrap_or_default());
        });
        if self.connections[connection].is_over() {
            self.live.remove(&connection);
        }
        for link in 0..2 {
            let this = &mut self.connections[connection];
            this.channels[1 - side][link].queue.clear();
            let channel = &mut this.channels[side][link];
            channel.is_finished = true;
            if self.random.coin() {
                let kept = self.random.range(0..channel.queue.len() as u64 + 1);
                channel.queue.truncate(kept as usize);
            }
            if !self.random.percent(20) {
                let delay = self.random.duration(10 * US..10 * MS);
                let delay = channel.last_due.saturating_sub(self.now) + delay;
                self.after(
                    delay,
                    Happening::Arrive {
                        connection,
                        side,
                        link,
                    },
                );
            }
        }
        let timeout = self.random.range(SECOND / 10..DEAD_AFTER);
        if !self.connections[connection].ends[1 - side].is_dying {
            self.after(
                timeout,
                Happening::Down {
                    connection,
                    side: 1 - side,
                    reason: "no sign of life",
                },
            );
        }
    }

    /// All connections of a node end, as its daemon sees it.
    pub(crate) fn end_connections(&mut self, node: usize, reason: &'static str) {
        for connection in self.live.clone() {
            for side in 0..2 {
                let end = &self.connections[connection].ends[side];
                if end.node == node && end.life == self.nodes[node].life {
                    self.die(connection, side, reason, 0);
                }
            }
        }
    }

    /// A node died without a word.
    pub(crate) fn drop_connections(&mut self, node: usize) {
        for connection in self.live.clone() {
            for side in 0..2 {
                if self.connections[connection].ends[side].node == node {
                    self.close_end(connection, side);
                }
            }
        }
    }

    /// The newest connection of two nodes is reset: both sides notice.
    pub(crate) fn reset_connection(&mut self, node: usize, peer: usize) {
        let mut newest_first = self.connections.iter().enumerate().rev();
        let is_theirs = |connection: &Connection| connection.has(node) && connection.has(peer);
        let found = newest_first.find(|(_, connection)| is_theirs(connection));
        let Some((connection, _)) = found else {
            return;
        };
        note!(self, "connection {connection} is reset");
        for side in 0..2 {
            for link in 0..2 {
                let channel = &mut self.connections[connection].channels[side][link];
                let kept = self.random.range(0..channel.queue.len() as u64 + 1);
                channel.queue.truncate(kept as usize);
                channel.is_broken = true;
            }
            let delay = self.random.duration(10 * US..SECOND);
            self.die(connection, side, "connection reset", delay);
        }
    }

    pub(crate) fn on_cable(&mut self, nodes: [usize; 2], cable: Cable) {
        note!(
            self,
            "cable {nodes:?}: {:?}, {} us slow",
            cable.blocked,
            cable.slow / US
        );
        self.cables.set(nodes, cable);
        for connection in self.live.clone() {
            let this = &self.connections[connection];
            if !nodes.iter().all(|&node| this.has(node)) {
                continue;
            }
            for side in 0..2 {
                let (from, to) = {
                    let ends = &self.connections[connection].ends;
                    (ends[side].node, ends[1 - side].node)
                };
                let blocked = cable.is_blocked(from, to);
                for link in 0..2 {
                    self.connections[connection].channels[side][link].is_stalled = blocked;
                    if !blocked {
                        self.poll(connection, side, link, 0);
                    }
                }
                if blocked {
                    // Both sides miss an answer: one its data, the other one its acknowledgements.
                    for side in 0..2 {
                        let timeout = self.random.range(SECOND / 10..DEAD_AFTER);
                        self.after(
                            timeout,
                            Happening::Down {
                                connection,
                                side,
                                reason: "no sign of life",
                            },
                        );
                    }
                }
            }
        }
        self.tell_connected();
        self.meet_soon(nodes);
    }
}
