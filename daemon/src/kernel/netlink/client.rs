// SPDX-License-Identifier: GPL-2.0-only

//! A socket to the module's generic netlink family.

use super::error::{NetlinkError, Refused};
use super::message::{attributes, find, text, Message};
use super::record::{decode, decode_event, Event, Record};
use super::request::Request;
use netlink_packet_core::{
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NLM_F_DUMP, NLM_F_REQUEST,
};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;
use weft_uapi::netlink::{Attribute, Command, EVENTS_GROUP, FAMILY};

// The controller of generic netlink, from `linux/genetlink.h`.
const CONTROLLER: u16 = 0x10;
const CONTROLLER_VERSION: u8 = 2;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
const MULTICAST_GROUPS: u16 = 7;
const GROUP_NAME: u16 = 1;
const GROUP_ID: u16 = 2;

// Parts of an extended acknowledgement, from `linux/netlink.h`.
const ACK_TEXT: u16 = 1;
const ACK_MISSING: u16 = 5;
/// Bytes of the request's header that an error repeats before the extended acknowledgement.
const ERROR_ECHO: usize = 16;

/// Room for events that have come and were not read yet, in bytes.
const EVENT_BUFFER: i32 = 1 << 20;

type Packet = NetlinkMessage<Message>;

/// See the module.
#[derive(Debug)]
pub struct Client {
    socket: Socket,
    sequence: u32,
    family: u16,
    events_group: Option<u32>,
}

impl Client {
    /// Connects and looks the family up.
    ///
    /// # Errors
    /// [`NetlinkError::ModuleMissing`] when there is none.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        let mut client = Self {
            socket,
            sequence: 0,
            family: CONTROLLER,
            events_group: None,
        };
        client.resolve()?;
        Ok(client)
    }

    fn resolve(&mut self) -> Result<(), NetlinkError> {
        let question = Message {
            family: CONTROLLER,
            command: GET_FAMILY,
            version: CONTROLLER_VERSION,
            attributes: vec![(FAMILY_NAME, [FAMILY.as_bytes(), &[0]].concat())],
        };
        let answer = match self.exchange(question) {
            Err(NetlinkError::Core(error, _)) if error.kind() == io::ErrorKind::NotFound => {
                return Err(NetlinkError::ModuleMissing)
            }
            answer => answer?,
        };
        let id = answer.raw(FAMILY_ID).and_then(|id| id.try_into().ok());
        self.family = id
            .map(u16::from_ne_bytes)
            .ok_or(NetlinkError::Malformed("a family without id"))?;
        let groups = answer.raw(MULTICAST_GROUPS).map(attributes);
        self.events_group = groups.unwrap_or_default().iter().find_map(|(_, group)| {
            let parts = attributes(group);
            let is_events = find(&parts, GROUP_NAME).is_some_and(|name| text(name) == EVENTS_GROUP);
            let id = find(&parts, GROUP_ID)?.try_into().ok()?;
            is_events.then(|| u32::from_ne_bytes(id))
        });
        Ok(())
    }

    /// Has one command carried out. Returns the module's remark, often empty.
    ///
    /// # Errors
    /// Why it was not done.
    pub fn perform(&mut self, request: &Request) -> Result<String, NetlinkError> {
        let answer = self.exchange(request.message(self.family))?;
        refusal(&answer)?;
        match answer.u32(Attribute::Code) {
            Some(_) => Ok(answer.text(Attribute::Text).unwrap_or_default()),
            None => Err(NetlinkError::Malformed("an answer without code")),
        }
    }

    /// Collects the records of a dump. Kinds that this version does not know are left out.
    ///
    /// # Errors
    /// Why there is none.
    pub fn dump(&mut self, request: &Request) -> Result<Vec<Record>, NetlinkError> {
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        let sequence = self.send(request.message(self.family), flags)?;
        let mut records = Vec::new();
        loop {
            for packet in self.receive()? {
                if packet.header.sequence_number != sequence {
                    continue;
                }
                match packet.payload {
                    NetlinkPayload::InnerMessage(message) => {
                        refusal(&message)?;
                        records.extend(decode(&message)?);
                    }
                    NetlinkPayload::Done(done) => {
                        return core(done.code, &done.extended_ack).map(|()| records);
                    }
                    NetlinkPayload::Error(error) => {
                        core(
                            error.raw_code(),
                            error.header.get(ERROR_ECHO..).unwrap_or(&[]),
                        )?;
                    }
                    _ => {}
                }
            }
        }
    }

    /// Makes this socket one for events: from now on only [`events`](Self::events) may be called.
    ///
    /// # Errors
    /// When the family has no such group.
    pub fn subscribe(&mut self) -> Result<(), NetlinkError> {
        let group = self
            .events_group
            .ok_or(NetlinkError::Malformed("the family has no group of events"))?;
        self.socket.set_rx_buf_sz(EVENT_BUFFER)?;
        self.socket.add_membership(group)?;
        Ok(())
    }

    /// The events that come within `patience` (`None`: for ever); none when the time is over or a signal came.
    ///
    /// # Errors
    /// [`NetlinkError::Overrun`] when some were lost: take a snapshot.
    pub fn events(&mut self, patience: Option<Duration>) -> Result<Vec<Event>, NetlinkError> {
        if !self.wait(patience)? {
            return Ok(Vec::new());
        }
        let messages = self
            .receive()?
            .into_iter()
            .filter_map(|packet| match packet.payload {
                NetlinkPayload::InnerMessage(message) => Some(message),
                _ => None,
            });
        messages
            .filter(|message| u32::from(message.command) == Command::Event.number())
            .map(|message| decode_event(&message))
            .collect()
    }

    fn wait(&self, patience: Option<Duration>) -> Result<bool, NetlinkError> {
        let timeout = patience.map_or(PollTimeout::NONE, |patience| {
            PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX)
        });
        let mut waiting = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, timeout) {
            Err(Errno::EINTR) => Ok(false),
            result => Ok(result.map_err(io::Error::from)? > 0),
        }
    }

    /// Sends one message and takes its one answer.
    fn exchange(&mut self, message: Message) -> Result<Message, NetlinkError> {
        let sequence = self.send(message, NLM_F_REQUEST)?;
        loop {
            for packet in self.receive()? {
                if packet.header.sequence_number != sequence {
                    continue;
                }
                match packet.payload {
                    NetlinkPayload::InnerMessage(message) => return Ok(message),
                    NetlinkPayload::Error(error) => {
                        core(
                            error.raw_code(),
                            error.header.get(ERROR_ECHO..).unwrap_or(&[]),
                        )?;
                    }
                    _ => return Err(NetlinkError::Malformed("an answer of an unexpected kind")),
                }
            }
        }
    }

    fn send(&mut self, message: Message, flags: u16) -> Result<u32, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(self.sequence)
    }

    /// The messages of one datagram.
    fn receive(&self) -> Result<Vec<Packet>, NetlinkError> {
        let (bytes, _) = self.socket.recv_from_full()?;
        let mut packets = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let packet = Packet::deserialize(rest)
                .map_err(|_| NetlinkError::Malformed("a broken netlink message"))?;
            let length = (packet.header.length as usize).next_multiple_of(4);
            packets.push(packet);
            rest = rest.get(length..).unwrap_or(&[]);
        }
        Ok(packets)
    }
}

/// A message with a code other than 0 is a refusal.
fn refusal(message: &Message) -> Result<(), NetlinkError> {
    match message.u32(Attribute::Code) {
        Some(code) if code != 0 => Err(NetlinkError::Refused(Refused {
            code,
            text: message.text(Attribute::Text).unwrap_or_default(),
        })),
        _ => Ok(()),
    }
}

/// What the netlink core says: an errno, negative, with an extended acknowledgement; 0 is no error.
fn core(code: i32, acknowledgement: &[u8]) -> Result<(), NetlinkError> {
    if code == 0 {
        return Ok(());
    }
    let parts = attributes(acknowledgement);
    let missing = || {
        let number = find(&parts, ACK_MISSING)?.try_into().ok()?;
        let attribute = Attribute::from_number(u32::from_ne_bytes(number))?;
        Some(format!("argument '{attribute}' is missing"))
    };
    let text = find(&parts, ACK_TEXT).map(text).or_else(missing);
    let error = io::Error::from_raw_os_error(code.saturating_abs());
    Err(NetlinkError::Core(error, text))
}
