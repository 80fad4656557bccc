// SPDX-License-Identifier: GPL-2.0-only

//! What can happen to node 0.

use crate::rig::{node, Rig, VOLUME};
use weft_engine::event::{Command, Growth, Op, Options, Token, Wanted};
use weft_uapi::refusal::Refusal;
use weft_uapi::state::Protocol;
use weft_uapi::units::{Minor, NodeSet, Sector, Seq, Term};
use weft_uapi::wire::{
    GenerationBody, Header, HelloBody, InForceBody, LinkKind, PacketKind, PromoteBody, FLAG_YES,
};
use zerocopy::{FromZeros, IntoBytes};

/// How node 0 answers.
pub(super) enum Answer {
    None,
    Now(Result<(), Refusal>),
    Reply(Token),
    Completion(u64),
}

pub(super) struct Row {
    pub(super) name: &'static str,
    /// Makes it happen; `None`: it cannot.
    pub(super) happen: fn(&mut Rig) -> Option<Answer>,
}

fn command(rig: &mut Rig, command: Command) -> Option<Answer> {
    Some(Answer::Reply(rig.order(0, command)))
}

fn connect(rig: &mut Rig, discard_my_data: bool) -> Option<Answer> {
    let peer = node(1);
    command(
        rig,
        Command::Connect {
            peer,
            discard_my_data,
        },
    )
}

fn request(rig: &mut Rig, op: Op, bytes: u32) -> Option<Answer> {
    Some(Answer::Completion(rig.begin_op(0, op, 0, bytes)))
}

/// A packet of the peer, where there is a session.
fn packet(rig: &mut Rig, header: Header, body: &[u8]) -> Option<Answer> {
    rig.session(0, 1)?;
    let kind = header.kind;
    let link = if kind.belongs_on(LinkKind::Data) {
        LinkKind::Data
    } else {
        LinkKind::Meta
    };
    let has_data = kind.carries_data() && header.bytes > 0;
    let data = has_data.then(|| vec![9; header.bytes as usize].into());
    rig.inject((1, 0), link, header, body, data);
    Some(Answer::None)
}

/// A packet of the volume about a block that begins with sector 8.
fn about_block(kind: PacketKind) -> Header {
    let mut header = Header::new(kind, Some(VOLUME));
    (header.seq, header.sector, header.bytes) = (Seq(1 << 30), Sector(8), 4096);
    header
}

/// A packet of the volume that carries a number only.
fn about(kind: PacketKind, seq: u64) -> Header {
    let mut header = Header::new(kind, Some(VOLUME));
    header.seq = Seq(seq);
    header
}

fn promote_reply(flags: u16) -> Header {
    let mut header = Header::new(PacketKind::PromoteReply, None);
    header.flags = flags;
    header.term = Term(2);
    header
}

pub(super) const EVENTS: &[Row] = &[
    Row {
        name: "`primary`",
        happen: |rig| command(rig, Command::Primary { force: false }),
    },
    Row {
        name: "`primary --force`",
        happen: |rig| command(rig, Command::Primary { force: true }),
    },
    Row {
        name: "`secondary`",
        happen: |rig| command(rig, Command::Secondary { force: false }),
    },
    Row {
        name: "`outdate`",
        happen: |rig| command(rig, Command::Outdate),
    },
    Row {
        name: "`new-generation`",
        happen: |rig| command(rig, Command::NewGeneration),
    },
    Row {
        name: "`invalidate`",
        happen: |rig| {
            let (volume, from) = (VOLUME, None);
            command(rig, Command::Invalidate { volume, from })
        },
    },
    Row {
        name: "`invalidate-peer`",
        happen: |rig| {
            let (volume, peer) = (VOLUME, node(1));
            command(rig, Command::InvalidatePeer { volume, peer })
        },
    },
    Row {
        name: "`pause-sync`",
        happen: |rig| command(rig, Command::PauseSync { peer: node(1) }),
    },
    Row {
        name: "`resume-sync`",
        happen: |rig| command(rig, Command::ResumeSync { peer: node(1) }),
    },
    Row {
        name: "`resize`",
        happen: |rig| {
            let (volume, growth) = (VOLUME, Growth::default());
            command(rig, Command::Resize { volume, growth })
        },
    },
    Row {
        name: "`verify`",
        happen: |rig| {
            let (volume, peer) = (VOLUME, node(1));
            let (start, stop) = (Sector(0), Some(Sector(8)));
            let wanted = Wanted::Range { start, stop };
            command(
                rig,
                Command::Verify {
                    volume,
                    peer,
                    wanted,
                },
            )
        },
    },
    Row {
        name: "`verify-stop`",
        happen: |rig| {
            let (volume, peer) = (VOLUME, node(1));
            command(rig, Command::VerifyStop { volume, peer })
        },
    },
    Row {
        name: "`repair` of nothing that was found",
        happen: |rig| {
            let (volume, peer, from) = (VOLUME, node(1), node(1));
            command(rig, Command::Repair { volume, peer, from })
        },
    },
    Row {
        name: "`suspend-io`",
        happen: |rig| command(rig, Command::SuspendIo),
    },
    Row {
        name: "`resume-io`",
        happen: |rig| command(rig, Command::ResumeIo),
    },
    Row {
        name: "`attach`",
        happen: |rig| Some(Answer::Reply(rig.order_attach(0, 512))),
    },
    Row {
        name: "`detach`",
        happen: |rig| command(rig, Command::Detach { volume: VOLUME }),
    },
    Row {
        name: "`connect`",
        happen: |rig| connect(rig, false),
    },
    Row {
        name: "`connect --discard-my-data`",
        happen: |rig| connect(rig, true),
    },
    Row {
        name: "`disconnect`",
        happen: |rig| {
            command(
                rig,
                Command::Disconnect {
                    peer: node(1),
                    force: false,
                },
            )
        },
    },
    Row {
        name: "`new-device` of the volume that is there",
        happen: |rig| {
            let (volume, minor) = (VOLUME, Minor(0));
            command(rig, Command::NewDevice { volume, minor })
        },
    },
    Row {
        name: "`new-device` of another volume",
        happen: |rig| {
            let (volume, minor) = (weft_uapi::units::VolumeId(1), Minor(1));
            command(rig, Command::NewDevice { volume, minor })
        },
    },
    Row {
        name: "`del-device`",
        happen: |rig| command(rig, Command::DelDevice { volume: VOLUME }),
    },
    Row {
        name: "`del-peer`",
        happen: |rig| command(rig, Command::DelPeer { peer: node(1) }),
    },
    Row {
        name: "another protocol",
        happen: |rig| {
            let options = Options {
                protocol: Some(Protocol::A),
                ..Options::default()
            };
            command(rig, Command::SetOptions { options })
        },
    },
    Row {
        name: "quorum is switched off",
        happen: |rig| {
            let options = Options {
                voters: Some(NodeSet::EMPTY),
                ..Options::default()
            };
            command(rig, Command::SetOptions { options })
        },
    },
    Row {
        name: "the device is opened",
        happen: |rig| Some(Answer::Now(rig.open(0))),
    },
    Row {
        name: "a read of the application",
        happen: |rig| request(rig, Op::Read, 4096),
    },
    Row {
        name: "a write of the application",
        happen: |rig| request(rig, Op::Write, 4096),
    },
    Row {
        name: "a write of the application that the disk refuses",
        happen: |rig| {
            rig.set_failing(0, true);
            request(rig, Op::Write, 4096)
        },
    },
    Row {
        name: "a flush of the application",
        happen: |rig| request(rig, Op::Flush, 0),
    },
    Row {
        name: "a metadata write fails",
        happen: |rig| rig.fail_late(0).then_some(Answer::None),
    },
    Row {
        name: "the daemon is gone, and the links with it",
        happen: |rig| {
            rig.serve(0, false);
            rig.cut_at_once();
            Some(Answer::None)
        },
    },
    Row {
        name: "the links are cut",
        happen: |rig| {
            rig.session(0, 1)?;
            rig.cut_at_once();
            Some(Answer::None)
        },
    },
    Row {
        name: "the peer dies",
        happen: |rig| {
            rig.session(0, 1)?;
            rig.crash(1);
            Some(Answer::None)
        },
    },
    Row {
        name: "the peer's disk is detached",
        happen: |rig| {
            rig.session(0, 1)?;
            rig.order(1, Command::Detach { volume: VOLUME });
            Some(Answer::None)
        },
    },
    Row {
        name: "the peer is promoted",
        happen: |rig| {
            rig.session(0, 1)?;
            rig.order(1, Command::Primary { force: false });
            Some(Answer::None)
        },
    },
    Row {
        name: "the peer is demoted",
        happen: |rig| {
            rig.session(0, 1)?;
            rig.order(1, Command::Secondary { force: false });
            Some(Answer::None)
        },
    },
    Row {
        name: "packet `hello`",
        happen: |rig| {
            let body = HelloBody::new_zeroed();
            packet(rig, Header::new(PacketKind::Hello, None), body.as_bytes())
        },
    },
    Row {
        name: "packet `write`",
        happen: |rig| packet(rig, about_block(PacketKind::Write), &[]),
    },
    Row {
        name: "packet `flush`",
        happen: |rig| packet(rig, about(PacketKind::Flush, 0), &[]),
    },
    Row {
        name: "packet `trim`",
        happen: |rig| packet(rig, about(PacketKind::Trim, 1 << 40), &[]),
    },
    Row {
        name: "packet `resync-request`",
        happen: |rig| packet(rig, about_block(PacketKind::ResyncRequest), &[]),
    },
    Row {
        name: "packet `resync-data` that nobody asked for",
        happen: |rig| packet(rig, about_block(PacketKind::ResyncData), &[]),
    },
    Row {
        name: "packet `resync-done`",
        happen: |rig| packet(rig, about(PacketKind::ResyncDone, 0), &[]),
    },
    Row {
        name: "packet `pause-sync`",
        happen: |rig| {
            let mut header = Header::new(PacketKind::PauseSync, None);
            header.flags = FLAG_YES;
            packet(rig, header, &[])
        },
    },
    Row {
        name: "packet `bitmap-end`",
        happen: |rig| packet(rig, about(PacketKind::BitmapEnd, 0), &[]),
    },
    Row {
        name: "packet `generation`: the peer becomes the writer of the next one",
        happen: |rig| {
            let generation = rig.next_record(0, node(1))?.into();
            let body = GenerationBody { generation };
            packet(rig, about(PacketKind::Generation, 0), body.as_bytes())
        },
    },
    Row {
        name: "packet `in-force` of a generation that nobody knows",
        happen: |rig| {
            let mut body = InForceBody::new_zeroed();
            body.generation = u64::MAX.into();
            packet(rig, about(PacketKind::InForce, 0), body.as_bytes())
        },
    },
    Row {
        name: "packet `promote-request` of a high term",
        happen: |rig| {
            let mut body = PromoteBody::new_zeroed();
            body.term = 1000.into();
            packet(
                rig,
                Header::new(PacketKind::PromoteRequest, None),
                body.as_bytes(),
            )
        },
    },
    Row {
        name: "packet `promote-reply`: yes",
        happen: |rig| {
            packet(
                rig,
                promote_reply(FLAG_YES),
                PromoteBody::new_zeroed().as_bytes(),
            )
        },
    },
    Row {
        name: "packet `promoted`",
        happen: |rig| packet(rig, Header::new(PacketKind::Promoted, None), &[]),
    },
    Row {
        name: "packet `demoted`",
        happen: |rig| packet(rig, Header::new(PacketKind::Demoted, None), &[]),
    },
    Row {
        name: "packet `leave`: the peer asks for leave",
        happen: |rig| packet(rig, Header::new(PacketKind::Leave, None), &[]),
    },
    Row {
        name: "packet `leave`: the peer has it on record, and was not asked",
        happen: |rig| {
            let mut header = about(PacketKind::Leave, 0);
            header.flags = FLAG_YES;
            packet(rig, header, &[])
        },
    },
    Row {
        name: "packet `outrun`: the peer does not wait for this disk",
        happen: |rig| {
            let mut header = about(PacketKind::Outrun, 0);
            header.arg = 1;
            packet(rig, header, &[])
        },
    },
    Row {
        name: "packet `leave-reply` that nobody asked for",
        happen: |rig| packet(rig, Header::new(PacketKind::LeaveReply, None), &[]),
    },
    Row {
        name: "packet `written` of something that was never sent",
        happen: |rig| packet(rig, about(PacketKind::Written, 1 << 30), &[]),
    },
    Row {
        name: "packet `stable` of something that was never sent",
        happen: |rig| packet(rig, about(PacketKind::Stable, 1 << 30), &[]),
    },
    Row {
        name: "packet `generation-durable` of a generation that nobody knows",
        happen: |rig| {
            let mut header = about(PacketKind::GenerationDurable, 0);
            header.arg = u64::MAX;
            packet(rig, header, &[])
        },
    },
    Row {
        name: "packet `read-request`",
        happen: |rig| packet(rig, about_block(PacketKind::ReadRequest), &[]),
    },
    Row {
        name: "packet `resize-ask`",
        happen: |rig| packet(rig, about(PacketKind::ResizeAsk, 1), &[]),
    },
    Row {
        name: "packet `resize-room` that nobody asked for",
        happen: |rig| packet(rig, about(PacketKind::ResizeRoom, 1), &[]),
    },
    Row {
        name: "packet `resize-to` a size for which there is no room",
        happen: |rig| {
            let mut header = about(PacketKind::ResizeTo, 0);
            header.arg = 1 << 40;
            packet(rig, header, &[])
        },
    },
    Row {
        name: "packet `verify-order`",
        happen: |rig| {
            let mut header = about(PacketKind::VerifyOrder, 0);
            header.arg = 8;
            packet(rig, header, &[])
        },
    },
    Row {
        name: "packet `verify-begin`",
        happen: |rig| {
            let mut header = about(PacketKind::VerifyBegin, 5);
            header.arg = 8;
            packet(rig, header, &[])
        },
    },
    Row {
        name: "packet `verify-digest` of a run that is over",
        happen: |rig| packet(rig, about_block(PacketKind::VerifyDigest), &[0; 16]),
    },
    Row {
        name: "packet `verify-result` of a run that is over",
        happen: |rig| packet(rig, about_block(PacketKind::VerifyResult), &[]),
    },
    Row {
        name: "packet `verify-end` of a run that is over",
        happen: |rig| packet(rig, about(PacketKind::VerifyEnd, 5), &[]),
    },
];
