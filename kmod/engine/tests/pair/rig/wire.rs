// SPDX-License-Identifier: GPL-2.0-only

//! The wires between the nodes: what the daemons do with offers and sessions.

use super::{node, Rig};
use crate::host::{Parcel, RigHost};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use weft_engine::effect::Data;
use weft_engine::event::{Command, Event};
use weft_uapi::control::padded_name;
use weft_uapi::crc32c::crc32c;
use weft_uapi::state::Role;
use weft_uapi::units::SessionId;
use weft_uapi::version::{PROTOCOL_VERSION, PROTOCOL_VERSION_MIN};
use weft_uapi::wire::{Header, HelloBody, LinkKind, PacketKind};
use zerocopy::{FromBytes, IntoBytes};

/// What is wrong with the wires; a pair is named by the smaller number first.
#[derive(Default)]
pub(super) struct Wires {
    /// No session is possible.
    cut: BTreeSet<(usize, usize)>,
    /// Packets get lost.
    dead: BTreeSet<(usize, usize)>,
    /// And neither notices when the other one is gone.
    silent: BTreeSet<(usize, usize)>,
    /// What was sent over data links that carry nothing, by sender and receiver.
    clogged: BTreeMap<(usize, usize), VecDeque<(SessionId, Parcel)>>,
    /// Features that no hello speaks of.
    unknown: u64,
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl Rig {
    /// All pairs of nodes.
    fn pairs(&self) -> Vec<(usize, usize)> {
        let later = |a: usize| (a + 1..self.nodes.len()).map(move |b| (a, b));
        self.numbers().flat_map(later).collect()
    }

    pub(crate) fn connect(&mut self) {
        for (a, b) in self.pairs() {
            self.dial(a, b, false);
            self.dial(b, a, false);
        }
    }

    /// Wants a connection to `peer`.
    pub(crate) fn dial(&mut self, number: usize, peer: usize, discard_my_data: bool) {
        let command = Command::Connect {
            peer: node(peer),
            discard_my_data,
        };
        self.command(number, command).unwrap();
    }

    /// Connects whoever stands alone; of a pair, the data of the one with the higher number are given up.
    pub(crate) fn reconnect(&mut self) {
        for (a, b) in self.pairs() {
            for (number, peer) in [(a, b), (b, a)] {
                if self.is_stand_alone(number, peer) {
                    self.dial(number, peer, number > peer);
                }
            }
        }
        self.idle();
    }

    /// Connects the offers that meet.
    pub(super) fn join(&mut self) {
        for (a, b) in self.pairs() {
            let is_offered = |from: usize, to: usize| self.nodes[from].offers.contains_key(&to);
            if self.wires.cut.contains(&(a, b)) || !is_offered(a, b) || !is_offered(b, a) {
                continue;
            }
            for (number, peer) in [(a, b), (b, a)] {
                let this = &mut self.nodes[number];
                let offer = this.offers.remove(&peer);
                this.sessions.extend(offer.map(|session| (peer, session)));
            }
            for (number, peer) in [(a, b), (b, a)] {
                let session = self.nodes[number].sessions[&peer];
                let peer = node(peer);
                self.feed(number, Event::SessionUp { peer, session });
            }
        }
    }

    /// The engine ends a session or takes an offer back.
    pub(super) fn end_session(&mut self, number: usize, peer: usize, session: SessionId) {
        let this = &mut self.nodes[number];
        this.offers.retain(|_, &mut offer| offer != session);
        if this.sessions.get(&peer) == Some(&session) {
            this.sessions.remove(&peer);
            self.hang_up(peer, number);
        }
    }

    /// `number` learns that its session with `peer` is over.
    fn hang_up(&mut self, number: usize, peer: usize) {
        if let Some(session) = self.nodes[number].sessions.remove(&peer) {
            self.feed(
                number,
                Event::SessionDown {
                    peer: node(peer),
                    session,
                    reason: "cut",
                },
            );
        }
    }

    /// The node is gone: its peers learn of it, but for those who notice nothing.
    pub(super) fn drop_wires(&mut self, number: usize) {
        self.nodes[number].offers.clear();
        self.nodes[number].sessions.clear();
        for peer in self.peers(number) {
            if !self.wires.silent.contains(&pair(number, peer)) {
                self.hang_up(peer, number);
            }
        }
    }

    pub(super) fn deliver(&mut self, from: usize, session: SessionId, parcel: Parcel) {
        let way = (from, parcel.to.index());
        match self.wires.clogged.get_mut(&way) {
            Some(queue) if parcel.link == LinkKind::Data => queue.push_back((session, parcel)),
            _ => self.hand_over(from, session, parcel),
        }
    }

    /// The data link from the first node to the second one carries nothing from now on.
    pub(crate) fn clog(&mut self, from: usize, to: usize) {
        self.wires.clogged.entry((from, to)).or_default();
    }

    /// So many of the packets that wait arrive; `false`: no more wait.
    pub(crate) fn trickle(&mut self, from: usize, to: usize, packets: usize) -> bool {
        for _ in 0..packets {
            let queue = self.wires.clogged.get_mut(&(from, to));
            let Some((session, parcel)) = queue.and_then(VecDeque::pop_front) else {
                return false;
            };
            self.hand_over(from, session, parcel);
        }
        true
    }

    /// The data link carries everything again.
    pub(crate) fn unclog(&mut self, from: usize, to: usize) {
        while self.trickle(from, to, 1) {
            self.steps(8);
        }
        self.wires.clogged.remove(&(from, to));
    }

    fn hand_over(&mut self, from: usize, session: SessionId, parcel: Parcel) {
        let to = parcel.to.index();
        let is_there = self.nodes[from].sessions.get(&to) == Some(&session)
            && self.nodes[to].sessions.contains_key(&from);
        if !is_there || self.wires.dead.contains(&pair(from, to)) {
            return;
        }
        let data = match parcel.data {
            Data::None => None,
            Data::Request(request) => Some(self.buffers[request as usize].clone()),
            Data::Buffer(buffer) => Some(buffer),
        };
        assert!(
            self.nodes[to].engine.has_peer_room(node(from)),
            "no room for a packet"
        );
        let Parcel {
            link,
            header,
            mut body,
            ..
        } = parcel;
        if header.kind == PacketKind::Hello {
            let mut hello = HelloBody::read_from_bytes(&body).unwrap();
            hello.features = (hello.features.get() & !self.wires.unknown).into();
            body = hello.as_bytes().into();
        }
        self.inject((from, to), link, header, &body, data);
    }

    /// A packet from the first node to the second one, perhaps one that its engine never sent; ignored without a
    /// session.
    pub(crate) fn inject(
        &mut self,
        (from, to): (usize, usize),
        link: LinkKind,
        header: Header,
        body: &[u8],
        data: Option<<RigHost as weft_engine::host::Host>::Buffer>,
    ) {
        if let Some(&session) = self.nodes[to].sessions.get(&from) {
            self.feed(
                to,
                Event::Packet {
                    peer: node(from),
                    session,
                    link,
                    header,
                    body,
                    data,
                },
            );
        }
    }

    /// All nodes are of a build that lacks these features: it says so from the next session on.
    pub(crate) fn set_unknown(&mut self, features: u64) {
        self.wires.unknown = features;
    }

    /// The first node says hello to the second one, and which features it has.
    pub(crate) fn greet(&mut self, (from, to): (usize, usize), features: u64) {
        for link in [LinkKind::Data, LinkKind::Meta] {
            let hello = HelloBody {
                version: PROTOCOL_VERSION.into(),
                version_min: PROTOCOL_VERSION_MIN.into(),
                link: (link as u16).into(),
                role: (Role::Secondary as u16).into(),
                features: features.into(),
                session: 1.into(),
                from: (from as u32).into(),
                to: (to as u32).into(),
                resource_crc: crc32c(&padded_name("r0").unwrap()).into(),
                volumes: 1.into(),
            };
            let header = Header::new(PacketKind::Hello, None);
            self.inject((from, to), link, header, hello.as_bytes(), None);
        }
    }

    /// Cuts all wires once everything has finished.
    pub(crate) fn cut(&mut self) {
        self.idle();
        self.cut_at_once();
        self.idle();
    }

    /// Cuts all wires without letting anything finish first.
    pub(crate) fn cut_at_once(&mut self) {
        self.cut_pairs(&self.pairs());
    }

    /// Cuts one wire once everything has finished.
    pub(crate) fn cut_pair(&mut self, a: usize, b: usize) {
        self.idle();
        self.cut_pair_at_once(a, b);
        self.idle();
    }

    /// Cuts one wire without letting anything finish first.
    pub(crate) fn cut_pair_at_once(&mut self, a: usize, b: usize) {
        self.cut_pairs(&[pair(a, b)]);
    }

    /// Cuts a node off once everything has finished.
    pub(crate) fn isolate(&mut self, number: usize) {
        self.idle();
        let wires: Vec<_> = self.peers(number).map(|peer| pair(number, peer)).collect();
        self.cut_pairs(&wires);
        self.idle();
    }

    fn cut_pairs(&mut self, pairs: &[(usize, usize)]) {
        self.wires.cut.extend(pairs);
        for &(a, b) in pairs {
            self.hang_up(a, b);
            self.hang_up(b, a);
        }
    }

    /// Packets get lost from now on, until the wires are healed; nobody has noticed yet.
    pub(crate) fn break_wire(&mut self) {
        self.wires.dead.extend(self.pairs());
    }

    /// As [`Self::break_wire`], between two nodes.
    pub(crate) fn break_pair(&mut self, a: usize, b: usize) {
        self.wires.dead.insert(pair(a, b));
    }

    /// As [`Self::break_pair`], and neither of the two notices when the other one crashes.
    pub(crate) fn silence_pair(&mut self, a: usize, b: usize) {
        self.break_pair(a, b);
        self.wires.silent.insert(pair(a, b));
    }

    pub(crate) fn heal(&mut self) {
        self.heal_at_once();
        self.idle();
    }

    /// Heals all wires and lets nothing happen yet.
    pub(crate) fn heal_at_once(&mut self) {
        self.wires = Wires {
            unknown: self.wires.unknown,
            ..Wires::default()
        };
    }

    pub(crate) fn heal_pair(&mut self, a: usize, b: usize) {
        self.heal_pair_at_once(a, b);
        self.idle();
    }

    /// Heals one wire and lets nothing happen yet.
    pub(crate) fn heal_pair_at_once(&mut self, a: usize, b: usize) {
        self.wires.cut.remove(&pair(a, b));
        self.wires.dead.remove(&pair(a, b));
    }
}
